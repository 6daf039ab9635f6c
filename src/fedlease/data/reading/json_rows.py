"""JSON with one object per row: a line each, one array, or objects written over several lines."""

import codecs
import json
from typing import NoReturn

from fedlease.data.faults import quoted, shown
from fedlease.data.reading.rows import Gathered, Readable, bounded_lines, too_large

__all__ = ["read_json_rows"]

KIND = "malformed JSON"
CHUNK = 65_536
"""Bytes read at a time where lines have no meaning."""


def read_json_rows(file: Readable, rows: Gathered) -> None:
    """Reads a file of objects.

    A file that begins with ``[`` is one array. One whose first line is the beginning of an object is read across lines,
    and any other one line by line, where a faulty line does not hide the next.
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
    """Whether a line holds the first part of an object that goes on in the next ones, as indented JSON does."""
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
    # Python drops all but the last in silence.
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{shown(name)} is named twice")
        found[name] = value
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_named_once)


class _Text:
    """The text from the value that is read now to the end of what was read, so that no more of it is in memory.

    Attributes:
        text: decoded.
        at: where the next value begins in it.
        line: the line of that place.
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
        """Stops the reading at this place."""
        self._rows.stop(self.line, f"{self._kind}: {rule}", KIND)

    def more(self, size: int = CHUNK) -> bool:
        """Reads another block of bytes; false at the end."""
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
        """Moves to a place further on."""
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def past(self) -> str:
        """Moves behind this character, then on to the next as :meth:`next`."""
        self.go(self.at + 1)
        return self.next()

    def next(self) -> str:
        """Moves to the next character that is no space, and gives it; ``""`` at the end."""
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
            ValueError: malformed, or longer than a row may be.
        """
        while True:
            left = len(self.text) - self.at
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except RecursionError as error:
                raise ValueError(error) from error
            except json.JSONDecodeError as error:
                # what fails may do so because the rest is not read yet
                if left > self._rows.limits.row_bytes:
                    most = self._rows.limits.row_bytes
                    raise ValueError(f"a row has at most {most:,} bytes (data.limits.row_bytes), got more") from error
                if not self.more(max(left, CHUNK)):
                    raise ValueError(f"{error.msg} (in the object that begins here)") from error
            else:
                self.go(end)
                return value


def _across_lines(file: Readable, rows: Gathered, *, array: bool) -> bool:
    """Reads an array, or objects one after the other; false where the first of these is malformed already."""
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
            rule = f"the file is one object with the keys {keys}; write its list of rows alone, as one array"
            rows.stop(line, rule, "one object")
        first = False
        _take(value, line, rows)
        if array and following == ",":
            source.past()
        elif array and following != end:
            source.stop(f"expected ',' or ']', got {following!r}" if following else "the array has no end")
    if array and (behind := source.past()):
        source.stop(f"nothing may stand behind the array, got {behind!r}")
    return True


def _holds_rows(value: dict[str, object]) -> bool:
    return any(
        isinstance(inner, list) and inner and all(isinstance(item, dict) for item in inner) for inner in value.values()
    )
