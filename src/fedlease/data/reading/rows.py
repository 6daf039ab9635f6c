"""Records of a table and limits on them, which the readers of all file types share."""

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
"""Largest number of lists and objects that may enclose a value."""

LINES = 10
"""Largest number of lines per row of ``data.limits.rows``; lines may be empty, and cells may have several."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a file: column -> value, and its first line (in Parquet and Arrow its row), counted from 1."""

    line: int
    values: dict[str, object]


@dataclass(frozen=True)
class Table:
    """The rows of one file.

    Attributes:
        columns: every column that occurs, in order.
        records: the readable rows; unreadable ones are among the faults.
        typed: whether the file type tells numbers from text (CSV does not).
        guessed: clauses that say how the file was read where that was guessed.
    """

    path: Path
    columns: tuple[str, ...]
    records: tuple[Record, ...]
    typed: bool
    guessed: tuple[str, ...] = ()


class StoppedError(Exception):
    """The rest of a file is not read; the reason is among the faults."""


class Gathered:
    """Gathers the records of one file, and stops when they exceed a limit.

    Attributes:
        columns: the columns found so far are its keys, in order; the values have no meaning.
        encoding: encoding of the file.
        guessed: see :attr:`Table.guessed`.
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
        """Notes a fault after which the rest of the file is not read, and raises :class:`StoppedError`."""
        self.faults.at(self.path, line, None, rule, kind=kind)
        raise StoppedError

    def stop_file(self, rule: str, kind: str) -> NoReturn:
        """Notes a fault of the whole file, and raises :class:`StoppedError`."""
        self.faults.of_file(self.path, rule, kind)
        raise StoppedError

    def undecodable(self, byte: int, where: str = "") -> str:
        """The rule that an undecodable byte breaks; adds a hint at the setting for other encodings."""
        self.faults.hint("encoding", "Text files in another encoding are read with data.encoding, such as cp1252.")
        return f"not {self.encoding} (byte 0x{byte:02x}{where})"

    def check_width(self, line: int, count: int) -> None:
        """Stops if there are too many columns."""
        most = self.limits.columns
        if count > most:
            self.stop(line, f"{count:,} columns, and at most {most:,} are read (data.limits.columns)", "columns")

    def take(self, line: int, values: dict[str, object]) -> None:
        """Adds a record unless a text is too long or a value is nested too deeply.

        Stops if the file has too many rows, columns or characters.
        """
        if len(self.records) >= self.limits.rows:
            self.stop(line, f"the file has more rows than the {self.limits.rows:,} of data.limits.rows", "rows")
        self.columns.update(dict.fromkeys(values))
        self.check_width(line, len(self.columns))
        fault, most = self.faults.row(self.path, line), self.limits.text_characters
        for column, value in values.items():
            for depth, text in _texts(value):
                if depth > DEPTH:
                    fault(column, f"a value may be nested in at most {DEPTH} others")
                    break
                self._characters += len(text)
                if len(text) > most:
                    rule = f"a text may have at most {most:,} characters (data.limits.text_characters)"
                    fault(column, f"{rule}, got one of {len(text):,}")
        # a character has at least one byte; small compressed files may unpack to very long texts
        if self._characters > self.limits.file_bytes:
            self.stop(line, too_large(self.limits), "size")
        if not fault.broken:
            self.records.append(Record(line, values))

    def table(self, *, typed: bool) -> Table:
        """The gathered records as a table."""
        return Table(self.path, tuple(self.columns), tuple(self.records), typed, tuple(self.guessed))


def too_large(limits: LimitSettings) -> str:
    """The rule that a file with too many bytes breaks."""
    return f"the file unpacks to more bytes than the {limits.file_bytes:,} of data.limits.file_bytes"


def _texts(value: object) -> Iterator[tuple[int, str]]:
    """The texts in a value as (depth, text); stops with an empty text at the first depth beyond :data:`DEPTH`."""
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
    """Lines with their numbers, from 1; a line that has too many bytes or is not UTF-8 is a fault and is skipped.

    With ``whole`` such a line stops the reading, since the following lines may depend on it.
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
            rule = f"a line may have at most {most:,} bytes (data.limits.row_bytes), got one of {size:,}"
            refuse(number, rule, "a line of too many bytes")
            continue
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            refuse(number, rows.undecodable(raw[error.start], f" at position {error.start}"), "bytes that are no text")
        else:
            yield number, text
