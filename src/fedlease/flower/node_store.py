"""Where a node keeps what is its own between messages: in the node's memory, or in a folder that outlives it."""

import re
from pathlib import Path
from typing import Any, Protocol

from flwr.app import RecordDict

from fedlease.core.codec import CodecError, dumps, loads
from fedlease.files import write_atomically
from fedlease.flower.wire import ARRAYS, RECORD, RecordError, pack, unpack

__all__ = ["FolderKeep", "Keep", "MemoryKeep"]

_NAME = re.compile(r"[a-z0-9-]{1,100}")

ANY_SIZE = 2**62
"""What a node wrote itself is not bounded."""


class Keep(Protocol):
    """Values by key; a key is a method's name with a prefix."""

    def get(self, key: str) -> Any:
        """The value, or None where there is none or it is damaged."""

    def put(self, key: str, value: object) -> None:
        """Replaces the value."""


class MemoryKeep:
    """In ``context.state``: for one run, and lost when the SuperNode is restarted.

    Args:
        state: of the context.
    """

    def __init__(self, state: RecordDict) -> None:
        self.state = state

    def get(self, key: str) -> Any:
        """See :class:`Keep`."""
        config, arrays = f"{key}.{RECORD}", f"{key}.{ARRAYS}"
        if config not in self.state or arrays not in self.state:
            return None
        record = RecordDict({RECORD: self.state.config_records[config], ARRAYS: self.state.array_records[arrays]})
        try:
            return unpack(record, ANY_SIZE)[0]
        except RecordError:
            return None

    def put(self, key: str, value: object) -> None:
        """See :class:`Keep`."""
        record = pack(value).record
        self.state[f"{key}.{RECORD}"] = record.config_records[RECORD]
        self.state[f"{key}.{ARRAYS}"] = record.array_records[ARRAYS]


class FolderKeep:
    """In files, written whole or not at all.

    Args:
        folder: of one node and one run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Any:
        """See :class:`Keep`."""
        try:
            return loads(self._path(key).read_bytes())
        except (OSError, CodecError):
            return None

    def put(self, key: str, value: object) -> None:
        """See :class:`Keep`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(key), dumps(value))

    def _path(self, key: str) -> Path:
        # Keys are checked where messages are; a folder is no place to find out that one was not.
        if not _NAME.fullmatch(key):
            raise ValueError(f"{key!r} is no name of a method")
        return self.folder / f"{key}.safetensors"
