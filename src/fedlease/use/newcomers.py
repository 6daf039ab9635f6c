"""Clients that joined after the run: a folder each, beside everything the run wrote."""

from pathlib import Path

from fedlease.core.codec import CodecError, dumps, loads
from fedlease.core.types import ClientId, ClientModel
from fedlease.errors import RunFolderError
from fedlease.files import write_atomically
from fedlease.reporting.run_folder import newcomer_folder

__all__ = ["newcomer_model", "write_newcomer_model"]

MODEL = "model.safetensors"


def newcomer_model(out: Path, client: ClientId) -> ClientModel:
    """What a newcomer is served with.

    Raises:
        RunFolderError: its file is missing or damaged.
    """
    path = newcomer_folder(out, client) / MODEL
    try:
        model = loads(path.read_bytes())
    except (OSError, CodecError) as error:
        raise RunFolderError(f"{path} is missing or damaged: {error}") from error
    if not isinstance(model, ClientModel):
        raise RunFolderError(f"{path} is damaged: it holds a {type(model).__name__}")
    return model


def write_newcomer_model(folder: Path, model: ClientModel) -> None:
    """Writes a newcomer's model into its folder."""
    write_atomically(folder / MODEL, dumps(model))
