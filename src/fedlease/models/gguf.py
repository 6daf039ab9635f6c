"""Conversion of GGUF files to folders that transformers reads, once, in the assets cache of ``huggingface_hub``."""

import hashlib
import importlib.util
from pathlib import Path

from fedlease.errors import MissingPackageError, ModelError
from fedlease.files import new_folder

__all__ = ["CONVERT", "converted"]

CONVERT = "pip install 'fedlease[generation]'"
"""Command that installs the packages for the conversion."""

FORM = 1
"""Version of the conversion; a new one converts again."""


def converted(name: str, file: Path) -> Path:
    """The folder with the weights as bfloat16 safetensors, the configuration and the tokenizer of a GGUF file.

    The first call takes half a minute; the folder's name depends on the content of the file.

    Raises:
        MissingPackageError: the package that reads GGUF is not installed.
        ModelError: the file cannot be read, or the cache cannot be written.
    """
    from huggingface_hub import cached_assets_path

    try:
        with file.open("rb") as stream:
            # The header, with the name and offset of every tensor, and the size identify the file.
            digest = hashlib.sha256(stream.read(1 << 20) + str(file.stat().st_size).encode()).hexdigest()[:16]
        parent = cached_assets_path(library_name="fedlease", namespace="models", subfolder=name)
        folder = parent / f"{digest}-{FORM}"
        if (folder / "config.json").is_file():
            return folder
        if importlib.util.find_spec("gguf") is None:
            raise MissingPackageError("gguf", f"model {name!r}", CONVERT)
        try:
            with new_folder(folder) as scratch:
                _convert(file, scratch)
        except OSError:
            if not (folder / "config.json").is_file():  # else another process was faster
                raise
    except OSError as error:
        raise ModelError(f"model {name!r}: {file} cannot be converted: {error}") from error
    return folder


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    # A model that was read from GGUF refuses to be saved; a twin with the same weights does not.
    config = type(model.config).from_dict(
        {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    )
    twin = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    twin.load_state_dict(model.state_dict())
    twin.tie_weights()
    twin.save_pretrained(folder)
