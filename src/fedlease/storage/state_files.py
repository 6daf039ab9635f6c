"""The immutable files of a checkpoint, named by the hash of their content; existing files are not written again."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedlease.core.codec import CodecError, digest, dumps, loads
from fedlease.core.types import ClientId, Tensors
from fedlease.errors import RunFolderError
from fedlease.files import read_file, write_atomically
from fedlease.storage.manifest import Entry, StepFiles
from fedlease.storage.run_files import MOST_WEIGHTS
from fedlease.storage.shelf import IN_MEMORY, OnDisk

__all__ = ["StateFiles"]

APART = 2**14
"""Bytes from which a tensor, or a mapping of tensors, gets its own file, so that a large part of a state that does not
change, such as the matrix of distances or a received warm-up, is not written again in every step."""


class StateFiles:
    """Writes and reads the files of the folder ``state``.

    Args:
        folder: path of the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # id of a value -> the value and its entry. States are frozen, so the same object has the same values; keeping
        # a reference prevents its id from being reused.
        self._known: dict[int, tuple[Any, Entry]] = {}
        self._last: dict[int, tuple[Any, Entry]] = {}

    def begin(self) -> None:
        """Begins a commit, and forgets files that the last one neither wrote nor found."""
        self._last, self._known = self._known, {}

    def write_step(self, state: Any, private: Mapping[ClientId, Mapping[str, Tensors]]) -> dict[str, Any]:
        """Writes values that are not on disk yet; returns the fields of :class:`~fedlease.storage.manifest.StepFiles`.

        Args:
            state: the method's state.
            private: client -> slot -> tensors.

        Raises:
            OSError: it cannot be written.
        """
        apart: dict[str, Entry] = {}

        def name(value: Any) -> str | None:
            tensors = value.values() if isinstance(value, Mapping) else (value,)
            if sum(tensor.nbytes for tensor in tensors) < APART:
                return None
            entry = self._once(value)
            apart[entry.sha256] = entry
            return entry.sha256

        clients = {
            client: {slot: self._once(tensors) for slot, tensors in slots.items()} for client, slots in private.items()
        }
        return {"state": self.write(dumps(state, name)), "clients": clients, "apart": list(apart.values())}

    def read_step(self, step: StepFiles) -> tuple[Any, dict[ClientId, dict[str, Tensors]]]:
        """Reads the state and the clients' private tensors of a step; private tensors beyond a limit stay on disk.

        Raises:
            RunFolderError: a file is missing or damaged.
        """
        apart = {entry.sha256: entry for entry in step.apart}

        def named(name: str) -> Any:
            if name not in apart:
                raise CodecError(f"malformed state: {name!r} is not in the manifest")
            return self.read(apart[name])

        size = 0

        def tensors_of(entry: Entry) -> Tensors:
            nonlocal size
            found: Tensors = self.read(entry)  # also detects damage
            size += sum(tensor.nbytes for tensor in found.values())
            return found if size <= IN_MEMORY else OnDisk(self.folder / entry.file, found)

        private = {
            client: {slot: tensors_of(entry) for slot, entry in slots.items()} for client, slots in step.clients.items()
        }
        return self.read(step.state, named), private

    def write(self, blob: bytes) -> Entry:
        """Writes a file, unless there is one with this content."""
        sha256 = digest(blob)
        entry = Entry(file=f"{sha256[:32]}.safetensors", sha256=sha256)
        path = self.folder / entry.file
        if not path.is_file():
            write_atomically(path, blob)
        return entry

    def read(self, entry: Entry, apart: Callable[[str], Any] | None = None) -> Any:
        """Reads the value in a file; ``apart`` is as for :func:`fedlease.core.codec.loads`.

        Raises:
            RunFolderError: it is missing or damaged.
        """
        path = self.folder / entry.file
        try:
            blob = read_file(path, MOST_WEIGHTS)
        except FileNotFoundError as error:
            raise RunFolderError(f"{path} is named by the manifest and cannot be read: {error}") from error
        if digest(blob) != entry.sha256:
            raise RunFolderError(f"{path} is damaged: its SHA-256 is not the one in the manifest")
        try:
            return loads(blob, apart)
        except CodecError as error:
            raise RunFolderError(f"{path} is damaged: {error}") from error

    def _once(self, value: Any) -> Entry:
        """Writes a value that has not been written before."""
        found = self._known.get(id(value)) or self._last.get(id(value)) or (value, self.write(dumps(value)))
        self._known[id(value)] = found
        return found[1]
