"""Stores tensors of many clients: in memory up to a limit, and otherwise in files that are read on access."""

import weakref
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import count
from pathlib import Path

from torch import Tensor

from fedlease.core.codec import CodecError, dumps, loads
from fedlease.core.types import Tensors
from fedlease.errors import RunFolderError
from fedlease.files import read_file
from fedlease.storage.run_files import MOST_WEIGHTS

__all__ = ["IN_MEMORY", "OnDisk", "Shelf"]

IN_MEMORY = 256 * 2**20
"""Most bytes in memory, for results and for private tensors each; further ones go to disk."""


class OnDisk(Mapping[str, Tensor]):
    """Tensors in a file; only the file that was read last stays in memory.

    Args:
        path: a file from :func:`fedlease.core.codec.dumps` that does not change.
        names: names of the tensors in it.
    """

    def __init__(self, path: Path, names: Mapping[str, object]) -> None:
        self.path, self._names = path, tuple(names)

    def __getitem__(self, name: str) -> Tensor:
        return _read(self.path)[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@lru_cache(maxsize=1)
def _read(path: Path) -> Tensors:
    try:
        found: Tensors = loads(read_file(path, MOST_WEIGHTS))
    except (FileNotFoundError, CodecError) as error:
        raise RunFolderError(f"{path} was there and is so no longer: {error}; is the run still on?") from error
    return found


class _Held(dict[str, Tensor]):
    """A dictionary that can be referenced weakly."""


class Shelf:
    """Stores tensors as long as the returned mappings are alive.

    Args:
        folder: folder for files, which is made with the first file.
        in_memory: most bytes of tensors in memory.

    Attributes:
        held: current bytes of tensors in memory.
    """

    def __init__(self, folder: Path, in_memory: int = IN_MEMORY) -> None:
        self.folder, self.in_memory, self.held = folder, in_memory, 0
        self._numbers = count()

    def __call__(self, tensors: Tensors) -> Tensors:
        """Stores tensors in memory if there is room, otherwise in a file that is deleted with the last reference.

        Raises:
            OSError: the file cannot be written.
        """
        if isinstance(tensors, OnDisk):
            return tensors
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self.held + size <= self.in_memory:
            held = _Held(tensors)
            self.held += size
            weakref.finalize(held, self._let_go, size).atexit = False
            return held
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{next(self._numbers)}.safetensors"
        path.write_bytes(dumps(dict(tensors)))
        found = OnDisk(path, tensors)
        weakref.finalize(found, path.unlink, missing_ok=True).atexit = False
        return found

    def _let_go(self, size: int) -> None:
        self.held -= size
