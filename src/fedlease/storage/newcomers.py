"""Clients that joined after the run: a folder each, beside everything the run wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlease.core.codec import CodecError, dumps, loads
from fedlease.core.types import ClientId, ClientModel
from fedlease.errors import RunFolderError
from fedlease.files import new_folder, write_atomically
from fedlease.storage.run_files import MOST_WEIGHTS, as_json
from fedlease.storage.run_folder import newcomer_files

__all__ = ["newcomer_model", "write_newcomer"]

MODEL = "model.safetensors"


def newcomer_model(out: Path, client: ClientId) -> ClientModel:
    """What a newcomer is served with.

    Raises:
        RunFolderError: its file is missing or damaged.
    """
    files = newcomer_files(out, client)
    path = files.folder / MODEL
    try:
        model = loads(files.read(MODEL, MOST_WEIGHTS))
    except CodecError as error:
        raise RunFolderError(f"{path} is missing or damaged: {error}") from error
    if not isinstance(model, ClientModel):
        raise RunFolderError(f"{path} is damaged: it holds a {type(model).__name__}")
    return model


def write_newcomer(out: Path, client: ClientId, model: ClientModel, content: Mapping[str, Any]) -> Path:
    """Writes a newcomer's folder, whole or not at all.

    Args:
        out: the run folder.
        client: its id.
        model: what it is served with.
        content: of its ``onboarding.json``.

    Raises:
        OSError: it cannot be written.
    """
    files = newcomer_files(out, client)
    contents = {MODEL: dumps(model), "onboarding.json": as_json(content)}
    files.expect(contents)
    with new_folder(files.folder) as folder:
        for name, blob in contents.items():
            write_atomically(folder / name, blob)
    return files.folder
