"""Where a node stores values between messages: in its memory, or in a folder that outlives it."""

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
    """Values by key, such as the name of a method."""

    def get(self, key: str) -> Any:
        """The value; None if there is none or it is damaged."""

    def put(self, key: str, value: object) -> None:
        """Replaces the value."""


@dataclass(frozen=True)
class MemoryStore:
    """Stores in ``context.state``, for one run: lost when the SuperNode is restarted.

    Attributes:
        state: of the context.
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
    """Stores in files, each written whole or not at all.

    Attributes:
        folder: of one client and one run.
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
        # Messages are checked before; a key that is no name must not become a path all the same.
        if not _NAME.fullmatch(key):
            raise ValueError(f"{key!r} is no name of a method")
        return self.folder / f"{key}.safetensors"


def check_room(state_dir: Path, run: str, most: int) -> None:
    """Refuses one run more than a node stores.

    A server that begins run after run must not fill the disk; only the node's owner deletes what is stored.

    Raises:
        RulesError: there are as many runs as ``most`` already.
    """
    if (state_dir / run).exists() or not state_dir.is_dir():
        return
    runs = sum(is_identity(entry.name) for entry in state_dir.iterdir())
    if runs >= most:
        said = f"state-dir: it holds the state of {runs} runs, max-runs of this node is {most}; delete the folders of "
        raise RulesError([("max-runs", f"{said}runs that are over")])
