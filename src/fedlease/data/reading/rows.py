"""The common part of the readers of all file types: records that know their line, gathered up to the limits."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from fedlease.config.data import LimitSettings
from fedlease.data.faults import Faults

__all__ = ["Gathered", "Readable", "Record", "StoppedError", "Table", "bounded_lines", "too_large"]

Readable = IO[bytes] | gzip.GzipFile

DEPTH = 100
"""Lists and objects that may stand around a value."""

LINES = 10
"""Lines that a file may have per row that it may have: cells go over lines, and there are empty ones."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a file: the line on which it starts (in Parquet the row), from 1, and column -> value."""

    line: int
    values: dict[str, object]


@dataclass(frozen=True)
class Table:
    """The rows of one file.

    Attributes:
        columns: every column that occurs, in order.
        records: the readable rows; unreadable ones are among the faults.
        typed: whether the file type tells numbers from text (CSV does not).
        guessed: how the file was read where neither it nor settings say, a clause each.
    """

    path: Path
    columns: tuple[str, ...]
    records: tuple[Record, ...]
    typed: bool
    guessed: tuple[str, ...] = ()


class StoppedError(Exception):
    """Nothing more of a file is read; why is among the faults."""


class Gathered:
    """Gathers the records of one file as long as they are within the limits.

    Attributes:
        columns: names of columns as they are met, in order; the values have no meaning.
        encoding: of the file.
        guessed: as of :class:`Table`.
    """

    def __init__(self, path: Path, limits: LimitSettings, faults: Faults) -> None:
        self.path = path
        self.limits = limits
        self.faults = faults
        self.records: list[Record] = []
        self.columns: dict[str, None] = {}
        self.encoding = "UTF-8"
        self.guessed: list[str] = []
        self._characters = 0

    def refuse(self, line: int, rule: str, kind: str) -> None:
        """Notes that a whole row cannot be used."""
        self.faults.row(self.path, line)(None, rule, kind=kind)

    def stop(self, line: int, rule: str, kind: str) -> NoReturn:
        """Notes a fault behind which nothing more of the file is read, and raises :class:`StoppedError`."""
        self.faults.at(self.path, line, None, rule, kind=kind)
        raise StoppedError

    def stop_file(self, rule: str, kind: str) -> NoReturn:
        """Notes a fault of the whole file, and raises :class:`StoppedError`."""
        self.faults.of_file(self.path, rule, kind)
        raise StoppedError

    def undecodable(self, byte: int, where: str = "") -> str:
        """The rule that bytes without a meaning break; a hint says which setting would read them."""
        self.faults.hint("encoding", "Text files in another encoding are read with data.encoding, such as cp1252.")
        return f"not {self.encoding} (byte 0x{byte:02x}{where})"

    def check_width(self, line: int, count: int) -> None:
        """Stops at a line of too many columns."""
        most = self.limits.columns
        if count > most:
            self.stop(line, f"{count:,} columns, and at most {most:,} are read (data.limits.columns)", "columns")

    def take(self, line: int, values: dict[str, object]) -> None:
        """Adds a record unless a text of it is too long, or a value is nested too deeply.

        Stops once the file holds more rows, columns or characters than it may.
        """
        if len(self.records) >= self.limits.rows:
            self.stop(line, f"the file has more rows than the {self.limits.rows:,} of data.limits.rows", "rows")
        self.columns.update(dict.fromkeys(values))
        self.check_width(line, len(self.columns))
        fault, most = self.faults.row(self.path, line), self.limits.text_characters
        for column, value in values.items():
            for depth, text in _texts(value):
                if depth > DEPTH:
                    fault(column, f"a value is nested in at most {DEPTH} others")
                    break
                self._characters += len(text)
                if len(text) > most:
                    rule = f"a text has at most {most:,} characters (data.limits.text_characters)"
                    fault(column, f"{rule}, got one of {len(text):,}")
        # a character takes a byte at least; small files of repeated texts unpack to many
        if self._characters > self.limits.file_bytes:
            self.stop(line, too_large(self.limits), "size")
        if not fault.broken:
            self.records.append(Record(line, values))

    def table(self, *, typed: bool) -> Table:
        """The rows that were gathered."""
        return Table(self.path, tuple(self.columns), tuple(self.records), typed, tuple(self.guessed))


def too_large(limits: LimitSettings) -> str:
    """The rule that a file with too many bytes breaks."""
    return f"the file unpacks to more bytes than the {limits.file_bytes:,} of data.limits.file_bytes"


def _texts(value: object) -> Iterator[tuple[int, str]]:
    """The texts in a value, each with its depth; one empty text if the value goes deeper than :data:`DEPTH`."""
    left = [(0, value)]
    while left:
        depth, value = left.pop()
        if depth > DEPTH:
            yield depth, ""
            return
        if isinstance(value, str):
            yield depth, value
        elif isinstance(value, list | tuple | dict):  # tuples are the entries of a Parquet map
            left += [(depth + 1, inner) for inner in (value.values() if isinstance(value, dict) else value)]


def bounded_lines(file: Readable, rows: Gathered, *, whole: bool = False) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; one that has too many bytes or is not UTF-8 is a fault and passed over.

    With ``whole`` such a line stops the reading, since the next ones have no meaning without it.
    """
    most, total, number = rows.limits.row_bytes, 0, 0
    while raw := file.readline(most + 1):
        number += 1
        size, last = len(raw), raw
        while size > most and not last.endswith(b"\n") and total + size <= rows.limits.file_bytes:
            if not (last := file.readline(most)):
                break
            size += len(last)
        total += size
        if number > LINES * rows.limits.rows:
            rows.stop(number, f"the file has over {LINES} times more lines than the rows of data.limits.rows", "rows")
        if total > rows.limits.file_bytes:
            rows.stop(number, too_large(rows.limits), "size")
        refuse = rows.stop if whole else rows.refuse
        if size > most:
            rule = f"a line has at most {most:,} bytes (data.limits.row_bytes), got one of {size:,}"
            refuse(number, rule, "a line of too many bytes")
            continue
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            refuse(number, rows.undecodable(raw[error.start], f" at position {error.start}"), "bytes that are no text")
        else:
            yield number, text
