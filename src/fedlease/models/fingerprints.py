"""Fingerprints of a base model and its tokenizer: of files, which a run folder keeps, and of content, over Flower."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedlease.core.wording import listed
from fedlease.errors import RunFolderError
from fedlease.models.checks import unavailable
from fedlease.models.sources import ModelSource, model_file, model_folder

if TYPE_CHECKING:
    from fedlease.models.base import BaseModel

__all__ = ["check_files", "file_prints", "fingerprint"]

WEIGHTS = re.compile(r".*\.safetensors|pytorch_model.*\.bin")
READ = re.compile(
    r"(generation_|tokenizer_)?config\.json|tokenizer.*\.json|added_tokens\.json|special_tokens_map\.json|.*\.index\.json"
    r"|vocab.*|merges\.txt|bpe\.codes|tekken\.json|chat_template.*|.*\.(model|tiktoken|jinja)"
)
"""Names of the files that transformers reads of a base's folder beside the weights."""

PROBES = ("The scan, 3.5 mm: clear?", " na\u00efve  \u2603\n\u6f22\u5b57 ", "I'LL pay #7 @ 10%")
"""Texts whose ids distinguish tokenizers of one vocabulary."""


def file_prints(source: ModelSource, *, weights: bool = True) -> dict[str, str]:
    """SHA-256 of every file of a base that is read, weights, configuration and tokenizer, by name.

    A model of the hub has been loaded before. Files of ``weights`` take a second per gigabyte or so.
    """
    folder = model_folder(source)
    return {name: _sha256(folder / name) for name in _names(folder, weights=weights)}


def check_files(
    out: Path, source: ModelSource, expected: Any, *, weights: bool = True, found: Mapping[str, str] | None = None
) -> None:
    """Compares a base with what a run was trained on.

    Args:
        out: run folder, for the message.
        source: where the model is now.
        expected: what :func:`file_prints` gave when the run began, from ``environment.json``.
        weights: whether files of weights too.
        found: as of :func:`file_prints`, where it is known already; else files are read.

    Raises:
        RunFolderError: a file is another one, is missing or new; or the run folder names no files.
        ModelError: a file of the hub cannot be had.
    """
    # Names are of files in the base's own folder, never paths, also where somebody else wrote them.
    if not isinstance(expected, Mapping) or not expected or not all(map(_is_read, expected)):
        raise RunFolderError(f"{out}: environment.json is damaged: it names no files of the base model")
    wanted = {name: mark for name, mark in expected.items() if weights or not WEIGHTS.fullmatch(str(name))}
    if found:
        found = {name: mark for name, mark in found.items() if weights or not WEIGHTS.fullmatch(name)}
    elif source.is_hub:
        # A commit of the hub does not change; which of its files lie here depends on who fetched them.
        found = {}
        for name in wanted:
            try:
                found[name] = _sha256(model_file(source, str(name)))
            except (OSError, ValueError) as error:
                raise unavailable(source, str(name), error) from error
    else:
        found = file_prints(source, weights=weights)
    differing = sorted(str(name) for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if differing:
        raise RunFolderError(
            f"{out}: the base model in {source.location} is no longer the one that the run was trained on: "
            f"{listed(differing, 5)} changed; put back what was there"
        )


def fingerprint(base: "BaseModel", tokenizer: Any) -> str:
    """SHA-256 over all weights of a base but its head's, and over what the tokenizer does.

    Does not depend on the form of the files, nor on the versions of the libraries that read them: it is what server
    and nodes compare. The head of a classifier is left out: it is drawn anew for every client.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(base.model.named_parameters()):
        if any(name.startswith(f"{head}.") for head in base.head_modules):
            continue
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)} ".encode())
        values = parameter.detach().data.cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    specials = {
        name: getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "unk", "pad", "sep", "cls")
    }
    content = [
        sorted(tokenizer.get_vocab().items()),
        specials,
        getattr(tokenizer, "chat_template", None),
        min(int(tokenizer.model_max_length), 2**31),
        [list(tokenizer(text)["input_ids"]) for text in PROBES],
        list(tokenizer(*PROBES[:2])["input_ids"]),
    ]
    digest.update(json.dumps(content).encode())
    return digest.hexdigest()


def _is_read(name: Any) -> bool:
    plain = isinstance(name, str) and name.isprintable() and not set(name) & set("/\\")
    return plain and bool(WEIGHTS.fullmatch(name) or READ.fullmatch(name))


def _names(folder: Path, *, weights: bool) -> Iterable[str]:
    files = sorted(path.name for path in folder.iterdir() if _is_read(path.name) and path.is_file())
    # Where there are both, transformers reads safetensors.
    weight_files = [name for name in files if name.endswith(".safetensors")] or [
        n for n in files if WEIGHTS.fullmatch(n)
    ]
    return [*(weight_files if weights else ()), *(name for name in files if READ.fullmatch(name))]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
