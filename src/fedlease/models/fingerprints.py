"""Fingerprints of a base model and its tokenizer: of files, for run folders, and of content, for Flower."""

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
"""Names of the files besides weights that transformers reads in a model's folder."""

PROBES = ("The scan, 3.5 mm: clear?", " na\u00efve  \u2603\n\u6f22\u5b57 ", "I'LL pay #7 @ 10%")
"""Texts that tokenizers with the same vocabulary may split differently."""


def file_prints(source: ModelSource, *, weights: bool = True) -> dict[str, str]:
    """SHA-256 of every file that is read for a base model (weights, configuration, tokenizer), by name.

    A hub model must have been loaded before. Weights take about a second per gigabyte.
    """
    folder = model_folder(source)
    return {name: _sha256(folder / name) for name in _names(folder, weights=weights)}


def check_files(
    out: Path, source: ModelSource, expected: Any, *, weights: bool = True, found: Mapping[str, str] | None = None
) -> None:
    """Checks that a base model is the one that a run was trained on.

    Args:
        out: run folder, for the message.
        source: of the model now.
        expected: result of :func:`file_prints` at the start of the run, from ``environment.json``.
        weights: whether to check files of weights, too.
        found: result of :func:`file_prints` now; None reads the files.

    Raises:
        RunFolderError: a file has changed, is missing or new; or the run folder names no files.
        ModelError: a file cannot be loaded from the hub.
    """
    # Names must be file names, never paths: somebody else may have written the run folder.
    if not isinstance(expected, Mapping) or not expected or not all(map(_is_read, expected)):
        raise RunFolderError(f"{out}: environment.json is damaged: it names no files of the base model")
    wanted = {name: mark for name, mark in expected.items() if weights or not WEIGHTS.fullmatch(str(name))}
    if found:
        found = {name: mark for name, mark in found.items() if weights or not WEIGHTS.fullmatch(name)}
    elif source.is_hub:
        # A commit on the hub does not change, but which of its files are in the cache does.
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
    """SHA-256 of a model's weights and of its tokenizer's behaviour, which server and nodes compare.

    Does not depend on the format of the files or on versions of libraries. The head of a classifier is left out, since
    every client initialises its own.
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
    # If a folder has both formats, transformers reads safetensors.
    weight_files = [name for name in files if name.endswith(".safetensors")] or [
        n for n in files if WEIGHTS.fullmatch(n)
    ]
    return [*(weight_files if weights else ()), *(name for name in files if READ.fullmatch(name))]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
