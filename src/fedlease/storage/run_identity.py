"""A run's own name: what tells it from another run with the same settings."""

import re
import secrets
from pathlib import Path
from typing import Any

from fedlease.errors import RunFolderError
from fedlease.storage.run_folder import read_environment

__all__ = ["is_identity", "new_identity", "read_identity"]


def new_identity() -> str:
    """A run's own name, which no other run has, whatever its settings: 32 random hexadecimal digits."""
    return secrets.token_hex(16)


def is_identity(value: Any) -> bool:
    """Whether it is one that :func:`new_identity` may have made; it names folders on nodes."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32}", value) is not None


def read_identity(out: Path) -> str:
    """The identity of the run in a folder.

    Raises:
        RunFolderError: the folder does not say it.
    """
    found = read_environment(out).get("run")
    if not is_identity(found):
        raise RunFolderError(f"{out / 'environment.json'} is damaged: run must be 32 hexadecimal digits")
    return str(found)
