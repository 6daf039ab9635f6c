"""Settings that depend on the machine: threads, device, absolute paths."""

import os
from pathlib import Path

from fedlease.config.settings import Settings
from fedlease.errors import ConfigError
from fedlease.models.sources import SHORT_NAMES
from fedlease.runs.threads import resolved_threads

__all__ = ["resolve_machine", "resolve_paths", "usable_device"]


def resolve_machine(settings: Settings) -> Settings:
    """Resolves the settings that depend on the machine: threads, device, absolute paths of data and model.

    Raises:
        ConfigError: this machine does not have the device, or the path of the rows or the model is unusable.
    """
    threads, device = resolved_threads(settings.threads), usable_device(settings.device)
    return resolve_paths(settings.model_copy(update={"threads": threads, "device": device}))


def resolve_paths(settings: Settings) -> Settings:
    """Makes the paths of data and model absolute.

    Raises:
        ConfigError: a path is unusable.
    """
    data = settings.data
    if data.path is not None:
        data = data.model_copy(update={"path": _absolute("data.path", data.path)})
    # A run may be resumed and loaded from another working directory.
    model = settings.model
    if model not in SHORT_NAMES and os.path.isdir(folder := _absolute("model", model)):
        model = str(folder)
    return settings.model_copy(update={"data": data, "model": model})


def _absolute(key: str, path: str | Path) -> Path:
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, an unknown user, a NUL character
        raise ConfigError(f"{key}: {str(path)!r} cannot be used as a path: {error}") from error


def usable_device(device: str) -> str:
    """The device to use; ``auto`` is a GPU if there is one, else the CPU.

    Raises:
        ConfigError: this machine does not have the device.
    """
    import torch  # here, so that rows can be read, and their faults reported, without torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
