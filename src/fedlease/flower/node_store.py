"""Stores of values between messages: in Flower's memory of a node, or in a folder that outlives it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flwr.app import ConfigRecord, RecordDict

from fedlease.core.codec import CodecError, dumps, loads
from fedlease.errors import RulesError
from fedlease.files import write_atomically
from fedlease.storage.environment import is_identity

__all__ = ["FolderStore", "MemoryStore", "Store", "check_room"]

_NAME = re.compile(r"[a-z0-9-]{1,100}")


class Store(Protocol):
    """A store of values by keys, such as names of methods."""

    def get(self, key: str) -> Any:
        """The value; None if there is none or it is damaged."""

    def put(self, key: str, value: object) -> None:
        """Replaces the value."""


@dataclass(frozen=True)
class MemoryStore:
    """Stores values of one run in ``context.state``; a restart of the SuperNode loses them.

    Attributes:
        state: the context's state.
    """

    state: RecordDict

    def get(self, key: str) -> Any:
        """See :class:`Store`."""
        try:
            value: Any = self.state.config_records[key]["value"]
            return loads(value)
        except (KeyError, CodecError):
            return None

    def put(self, key: str, value: object) -> None:
        """See :class:`Store`."""
        self.state[key] = ConfigRecord({"value": dumps(value)})


@dataclass(frozen=True)
class FolderStore:
    """Stores values in files, which are written atomically.

    Attributes:
        folder: folder of one client and one run.
    """

    folder: Path

    def get(self, key: str) -> Any:
        """See :class:`Store`."""
        try:
            return loads(self._path(key).read_bytes())
        except (OSError, CodecError):
            return None

    def put(self, key: str, value: object) -> None:
        """See :class:`Store`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(key), dumps(value))

    def _path(self, key: str) -> Path:
        # Messages were checked before; this makes sure that no key leads out of the folder.
        if not _NAME.fullmatch(key):
            raise ValueError(f"{key!r} is no name of a method")
        return self.folder / f"{key}.safetensors"


def check_room(state_dir: Path, run: str, most: int) -> None:
    """Refuses a new run if a node already stores ``most`` runs, so that a server cannot fill the disk with runs.

    Only the node's owner deletes stored runs.

    Raises:
        RulesError: the run is new and there are ``most`` runs.
    """
    if (state_dir / run).exists() or not state_dir.is_dir():
        return
    runs = sum(is_identity(entry.name) for entry in state_dir.iterdir())
    if runs >= most:
        rule = (
            f"state-dir: it has the state of {runs} runs, and max-runs of this node is {most}; delete the folders of "
        )
        raise RulesError([("max-runs", f"{rule}runs that are over")])
