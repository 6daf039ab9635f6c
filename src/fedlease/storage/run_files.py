"""``files.json``: the SHA-256 of every file of a run folder that is read again, except those in ``state``.

The index is written before the file, with the digest of its present and of its next content. Whenever a process is
killed, the file has one of the two, and any other content is damage.
"""

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from fedlease.core.serialisable import digest
from fedlease.errors import RunFolderError
from fedlease.files import read_file, write_atomically
from fedlease.storage.documents import MOST_BYTES, checked, parse_json, read_object

__all__ = ["INDEX", "MOST_WEIGHTS", "Digest", "RunFiles", "as_json", "read_sealed", "sealed", "write_sealed"]

INDEX = "files.json"
MOST_WEIGHTS = 2**35
"""Largest size of a file of weights, in bytes."""

TRIES = 3
"""Number of times that a reader starts over, since a running process may have written the file twice."""

M = TypeVar("M", bound=BaseModel)
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Index(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    settings: dict[str, Any]
    """The settings with which the run began: ``config.yaml`` is compared with them."""
    files: dict[str, Annotated[list[Digest], Field(min_length=1, max_length=2)]]
    """Path in the folder -> digests, the newest last."""


class RunFiles:
    """Reads and writes the files of a run folder that the index covers.

    In a folder without an index, files are read without comparing digests. Methods raise an OSError if a file cannot be
    written, and a RunFolderError if it is missing, damaged, no regular file or too large.

    Args:
        out: the run folder.
        within: a folder in it, such as ``baselines/fedit``, to which names are relative.

    Attributes:
        folder: ``out/within``.
    """

    def __init__(self, out: Path, within: str = "") -> None:
        self.out = out
        self.folder = out / within
        self._within = f"{within}/" if within else ""
        self._path = out / INDEX

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Begins the index of a new run."""
        write_sealed(self._path, _Index(settings=dict(settings), files={}))

    def change_settings(self, settings: Mapping[str, Any], name: str, blob: bytes) -> None:
        """Replaces the settings of the run in the index and in ``config.yaml``."""
        index = read_sealed(self._path, _Index)
        assert index is not None  # a run that has begun has one
        write_sealed(self._path, _Index(settings=dict(settings), files=index.files))
        write_atomically(self.folder / name, blob)

    @property
    def settings(self) -> dict[str, Any] | None:
        """The settings with which the run began; None without an index."""
        index = read_sealed(self._path, _Index)
        return None if index is None else index.settings

    def names(self, folder: str = "") -> list[str]:
        """The files in a folder that the index covers, sorted."""
        index = read_sealed(self._path, _Index)
        start = f"{self._within}{folder}/" if folder else self._within
        covered = () if index is None else index.files
        return sorted(name.removeprefix(self._within) for name in covered if name.startswith(start))

    def has(self, name: str) -> bool:
        """Whether a file exists, and is covered if there is an index."""
        index = read_sealed(self._path, _Index)
        return (index is None or self._within + name in index.files) and (self.folder / name).exists()

    def holds(self, name: str, blob: bytes) -> bool:
        """Whether a file has this content."""
        return self.has(name) and self._now(name) == digest(blob)

    def expect(self, contents: Mapping[str, bytes]) -> None:
        """Adds digests of files that are about to be written to the index."""
        index = read_sealed(self._path, _Index)
        if index is None:
            return
        files = dict(index.files)
        for name, blob in contents.items():
            key = self._within + name
            now = self._now(name) if key in files else None
            files[key] = list(dict.fromkeys([*(known for known in files.get(key, ()) if known == now), digest(blob)]))
        write_sealed(self._path, _Index(settings=index.settings, files=files))

    def write(self, name: str, blob: bytes) -> None:
        """Adds a file to the index and writes it; refuses paths through a folder that is a link."""
        path = self.folder / name
        for parent in reversed(path.relative_to(self.out).parents):
            if parent != Path() and (self.out / parent).is_symlink():
                raise OSError(errno.ELOOP, "is a link", str(self.out / parent))
        path.parent.mkdir(parents=True, exist_ok=True)
        self.expect({name: blob})
        write_atomically(path, blob)

    def write_json(self, name: str, content: Any) -> None:
        """Adds a JSON file to the index and writes it."""
        self.write(name, as_json(content))

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Reads a file, and compares it with the index."""
        path = self.folder / name
        for _ in range(TRIES):
            try:
                blob = read_file(path, most)
            except FileNotFoundError as error:
                raise RunFolderError(f"{path} is missing or damaged: there is no such file") from error
            # The index is read after the file, since writers add a digest before they write the content.
            index = read_sealed(self._path, _Index)
            known = None if index is None else index.files.get(self._within + name)
            if known is None or digest(blob) in known:
                return blob
        raise RunFolderError(f"{path} is damaged, or was changed: its SHA-256 is not the one in {INDEX}")

    def read_model(self, name: str, kind: type[M]) -> M:
        """Reads a JSON file as a ``kind``, and compares it with the index."""
        found: M = checked(parse_json(self.read(name), self.folder / name), kind, self.folder / name)
        return found

    def digests(self, folder: str) -> dict[str, str]:
        """Path in a folder -> SHA-256, of the files that the index covers; other files are errors."""
        if not self._path.exists():
            return {}
        found = {name: digest(self.read(name, MOST_WEIGHTS)) for name in self.names(folder)}
        there = (path for path in sorted((self.folder / folder).rglob("*")) if path.is_symlink() or not path.is_dir())
        for path in there:
            if path.relative_to(self.folder).as_posix() not in found:
                raise RunFolderError(f"{path} was not written by the run")
        return {name.removeprefix(f"{folder}/"): sha256 for name, sha256 in found.items()}

    def _now(self, name: str) -> str | None:
        try:
            return digest(read_file(self.folder / name, MOST_WEIGHTS))
        except FileNotFoundError:
            return None


def as_json(content: Any) -> bytes:
    """Formats JSON for the files of a run folder."""
    return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Adds a digest of an object to it, under ``sha256``."""
    return {**content, "sha256": digest(json.dumps(content, sort_keys=True).encode())}


def write_sealed(path: Path, content: BaseModel) -> None:
    """Writes a JSON file with a digest of itself."""
    write_atomically(path, as_json(sealed(content.model_dump(mode="json"))))


def read_sealed(path: Path, kind: type[M]) -> M | None:
    """Reads a file that :func:`write_sealed` wrote; None without a file.

    Raises:
        RunFolderError: it is not as it was written.
    """
    if not path.exists():
        return None
    content = read_object(path)
    stated = content.pop("sha256", None)
    if stated != sealed(content)["sha256"]:
        raise RunFolderError(f"{path} is damaged: its SHA-256 is not the one that it states")
    found: M = checked(content, kind, path)
    return found
