"""Reads JSON with one object per row: one per line, in one array, or each over several lines."""

import codecs
import json
from typing import NoReturn

from fedlease.data.faults import quoted, shown
from fedlease.data.reading.rows import Gathered, Readable, bounded_lines, too_large

__all__ = ["read_json_rows"]

KIND = "malformed JSON"
CHUNK = 65_536
"""Number of bytes read at a time if objects go over lines."""


def read_json_rows(file: Readable, rows: Gathered) -> None:
    """Reads a file of objects.

    A file that begins with ``[`` is one array. If the first line is only the beginning of an object, objects are read
    across lines. Any other file is read line by line, so that a faulty line does not affect the next.
    """
    begin = file.tell()
    start = b" "
    while start.isspace():
        start = file.read(CHUNK)
    file.seek(begin)
    first, _, rest = start.lstrip().partition(b"\n")
    array = first.startswith(b"[")
    across = array or (rest and _begun(first.rstrip()))
    if not across or not _across_lines(file, rows, array=array):
        file.seek(begin)
        _by_line(file, rows)


def _begun(line: bytes) -> bool:
    """Whether a line is the beginning of an object that continues on the next lines, as in indented JSON."""
    text = line.decode("utf-8", errors="replace")
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return text.startswith("{") and getattr(error, "pos", 0) >= len(text) - 1
    return False


def _by_line(file: Readable, rows: Gathered) -> None:
    for line, text in bounded_lines(file, rows):
        if not text.strip(" \t\r\n\v\f"):
            continue
        try:
            value = json.loads(text, object_pairs_hook=_named_once)
        except (ValueError, RecursionError) as error:
            rows.refuse(line, f"{KIND}: {error}", KIND)
        else:
            _take(value, line, rows)


def _take(value: object, line: int, rows: Gathered) -> None:
    if isinstance(value, dict):
        rows.take(line, value)
    else:
        rows.refuse(line, f"a JSON object is needed, got {type(value).__name__}", "no JSON object")


def _named_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # Python's default silently keeps only the last of equal keys.
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{shown(name)} is named twice")
        found[name] = value
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_named_once)


class _Text:
    """A file that is decoded block by block; what was parsed is dropped, so that only little of it is in memory.

    Attributes:
        text: decoded text that may still be needed.
        at: position in ``text`` where the next value begins.
        line: line number of that position, from 1.
    """

    def __init__(self, file: Readable, rows: Gathered, kind: str) -> None:
        self._file = file
        self._rows = rows
        self._kind = kind
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._total = 0
        self.text = ""
        self.at = 0
        self.line = 1

    def stop(self, rule: str) -> NoReturn:
        """Notes a fault at this position, and stops reading the file."""
        self._rows.stop(self.line, f"{self._kind}: {rule}", KIND)

    def more(self, size: int = CHUNK) -> bool:
        """Reads another block of ``size`` bytes; returns False at the end of the file."""
        chunk = self._file.read(size)
        self._total += len(chunk)
        if self._total > self._rows.limits.file_bytes:
            self.stop(too_large(self._rows.limits))
        self.text, self.at = self.text[self.at :], 0
        try:
            self.text += self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            self.line += self.text.count("\n") + error.object.count(b"\n", 0, error.start)
            self.stop(self._rows.undecodable(error.object[error.start]))
        return bool(chunk)

    def go(self, end: int) -> None:
        """Moves to a later position in ``text``."""
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def past(self) -> str:
        """Skips this character, then moves on as :meth:`next`."""
        self.go(self.at + 1)
        return self.next()

    def next(self) -> str:
        """Moves to the next character that is no space and returns it; ``""`` at the end of the file."""
        while True:
            end = self.at
            while end < len(self.text) and self.text[end] in " \t\r\n":
                end += 1
            self.go(end)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self) -> object:
        """Reads one value.

        Raises:
            ValueError: it is malformed, or longer than a row may be.
        """
        while True:
            left = len(self.text) - self.at
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except RecursionError as error:
                raise ValueError(error) from error
            except json.JSONDecodeError as error:
                # the value may only be incomplete, because the rest was not read yet
                if left > self._rows.limits.row_bytes:
                    most = self._rows.limits.row_bytes
                    raise ValueError(f"a row has at most {most:,} bytes (data.limits.row_bytes), got more") from error
                if not self.more(max(left, CHUNK)):
                    raise ValueError(f"{error.msg} (in the object that begins here)") from error
            else:
                self.go(end)
                return value


def _across_lines(file: Readable, rows: Gathered, *, array: bool) -> bool:
    """Reads an array, or a sequence of objects; returns False if the first object of a sequence is malformed."""
    end, kind = ("]", f"{KIND}: read as one array of objects, since it begins with '['") if array else ("", KIND)
    source, first = _Text(file, rows, kind), True
    following = source.next()
    if array:
        following = source.past()
    while following != end:
        line = source.line
        try:
            value = source.value()
        except ValueError as error:
            if first and not array:
                return False
            source.stop(str(error))
        following = source.next()
        if first and not following and not array and isinstance(value, dict) and _holds_rows(value):
            keys = quoted(list(value))
            rule = f"the file is one object with the keys {keys}; write only its list of rows, as one array"
            rows.stop(line, rule, "one object")
        first = False
        _take(value, line, rows)
        if array and following == ",":
            source.past()
        elif array and following != end:
            source.stop(f"expected ',' or ']', got {following!r}" if following else "the array has no end")
    if array and (behind := source.past()):
        source.stop(f"nothing may follow the array, got {behind!r}")
    return True


def _holds_rows(value: dict[str, object]) -> bool:
    return any(
        isinstance(inner, list) and inner and all(isinstance(item, dict) for item in inner) for inner in value.values()
    )
