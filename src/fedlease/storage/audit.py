"""``audit.jsonl``: lines about clients that joined and data that was sent, chained by their hashes.

A line has the hash of the line before it, and a hash over its own content. Changing a byte, and removing, inserting or
moving a line, break the chain. Cutting off lines at the end does not, so the last hash should be noted elsewhere.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedlease.core.codec import digest, dumps
from fedlease.core.types import Tensors
from fedlease.errors import RunFolderError
from fedlease.files import append, read_file
from fedlease.storage.documents import MOST_BYTES

__all__ = ["AUDIT", "Trail", "read_trail"]

AUDIT = "audit.jsonl"
FIRST = "0" * 64
"""The hash before the first line."""

ONCE = {"layout": ("layout",), "joined": ("client", "rows_sha256"), "settings": ("settings_sha256",)}
"""Kind of line that is written only once for each thing -> the keys that identify the thing."""

Line = dict[str, Any]


@dataclass
class Trail:
    """An audit trail that is being written; lines wait in memory until :meth:`flush`.

    Attributes:
        path: path of the file.
    """

    path: Path
    _waiting: list[bytes] = field(default_factory=list)
    _known: set[tuple[str, ...]] = field(default_factory=set)
    _last: str = FIRST
    _count: int = 0
    _size: int = 0

    @classmethod
    def of(cls, folder: Path) -> "Trail":
        """Opens the trail of a folder, which may exist already.

        An incomplete last line, left when the machine stopped, is removed, and a new line records that.

        Raises:
            RunFolderError: an existing trail is not as it was written.
        """
        trail = cls(folder / AUDIT)
        blob = _read(trail.path) if trail.path.exists() else b""
        trail._size = blob.rfind(b"\n") + 1
        for line in _checked(trail.path, blob[: trail._size]):
            trail._last, trail._count = line["sha256"], line["line"]
            for kind, names in ONCE.items():
                if line["kind"] == kind:
                    trail._known.add((kind, *(line[name] for name in names)))
        if torn := len(blob) - trail._size:
            trail.add("torn", bytes=torn)
        return trail

    @property
    def size(self) -> int:
        """Bytes of the file, without waiting lines."""
        return self._size

    def first(self, kind: str, *names: str) -> bool:
        """Whether something that is recorded only once is new; marks it as recorded.

        Args:
            kind: kind of its line, a key of ``ONCE``.
            names: values of the keys that identify it.
        """
        new = (kind, *names) not in self._known
        self._known.add((kind, *names))
        return new

    def add(self, kind: str, **content: Any) -> None:
        """Appends a line.

        Args:
            kind: kind of the line.
            content: JSON values.
        """
        self._count += 1
        now = datetime.now(UTC).isoformat(timespec="seconds")
        body = {"line": self._count, "at": now, "kind": kind, **content, "before": self._last}
        self._last = digest(_canonical(body))
        self._waiting.append(_canonical({**body, "sha256": self._last}) + b"\n")

    def tensors(self, kind: str, tensors: Tensors, **content: Any) -> None:
        """Appends a line about tensors that were sent: bytes and hash; and, once per list, their names and shapes."""
        shapes = {name: list(tensor.shape) for name, tensor in sorted(tensors.items())}
        layout = digest(_canonical(shapes))[:16]
        if self.first("layout", layout):
            self.add("layout", layout=layout, shapes=shapes)
        size = sum(tensor.nbytes for tensor in tensors.values())
        self.add(kind, **content, layout=layout, bytes=size, content_sha256=digest(dumps(dict(tensors))))

    def flush(self) -> None:
        """Writes the waiting lines.

        Raises:
            OSError: they cannot be written.
        """
        if self._waiting:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            blob = b"".join(self._waiting)
            append(self.path, blob, self._size)
            self._size += len(blob)
            self._waiting.clear()


def read_trail(path: Path) -> list[Line]:
    """Reads a trail, and checks every line against its hash and the line before.

    Raises:
        RunFolderError: there is no trail, or a line is not as it was written; the message names the first such line.
    """
    return [*_checked(path, _read(path))]


def _read(path: Path) -> bytes:
    try:
        return read_file(path, 64 * MOST_BYTES)
    except FileNotFoundError as error:
        raise RunFolderError(f"{path.parent} has no audit trail: there is no {path.name}") from error


def _checked(path: Path, blob: bytes) -> Iterator[Line]:
    before = FIRST
    lines = blob.split(b"\n")
    if lines.pop():
        raise RunFolderError(f"{path}, line {len(lines) + 1}: is not as it was written: its end is missing")
    for number, raw in enumerate(lines, 1):
        try:
            line = json.loads(raw)
            body = {key: value for key, value in line.items() if key != "sha256"}
            same = _canonical(line) == raw and line["sha256"] == digest(_canonical(body))
            whole = same and line["before"] == before and line["line"] == number and isinstance(line["kind"], str)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            whole = False
        if not whole:
            raise RunFolderError(f"{path}, line {number}: is not as it was written, or the line before it is not")
        before = line["sha256"]
        yield line


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()
