"""Reads JSONL, CSV and Parquet into records that know their line, and collects every fault on the way."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlease.errors import DataError

__all__ = ["SHOWN", "SUFFIXES", "Faults", "Record", "Table", "parse_table", "read_table", "split_name"]

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
"""Known file types."""

SHOWN = 20
"""Faults listed before the rest are only counted."""


class Faults:
    """Collects faults so that one run reports all of them."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, fault: str) -> None:
        """Notes one fault."""
        self.found.append(fault)

    def at(self, path: Path, line: int, column: str, rule: str) -> None:
        """Notes a fault of one value."""
        unit = "row" if path.suffix == ".parquet" else "line"
        self.add(f"{path}, {unit} {line}, column {column!r}: {rule}")

    def check(self) -> None:
        """Raises what was found, the first :data:`SHOWN` faults in full.

        Raises:
            DataError: something was found.
        """
        more = len(self.found) - SHOWN
        if self.found:
            raise DataError(self.found[:SHOWN] + ([f"... and {more} more faults"] if more > 0 else []))


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a file.

    Attributes:
        line: 1-based line on which the row starts; for Parquet the 1-based row.
        values: column -> value.
    """

    line: int
    values: dict[str, object]


@dataclass(frozen=True)
class Table:
    """The rows of one file.

    Attributes:
        path: the file.
        columns: every column that occurs, in order.
        records: the readable rows; unreadable ones are among the faults.
        typed: whether the file type tells numbers from text (CSV does not).
    """

    path: Path
    columns: tuple[str, ...]
    records: tuple[Record, ...]
    typed: bool


def split_name(path: Path) -> tuple[str, str]:
    """Stem and suffix: ``train.csv.gz`` -> ``("train", ".csv.gz")``, ``train.tar.gz`` -> ``("train.tar", ".gz")``."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)], suffix
    return path.stem, path.suffix.lower()


def read_table(path: Path, faults: Faults) -> Table | None:
    """Reads one file.

    Returns:
        The rows, or None when nothing could be read; the reason is then among ``faults``.
    """
    suffix = split_name(path)[1]
    if suffix not in SUFFIXES:
        faults.add(f"{path}: file type {suffix!r} is not one of {', '.join(SUFFIXES)}")
        return None
    if suffix == ".parquet":
        return _read_parquet(path, faults)
    try:
        blob = path.read_bytes()
        content = gzip.decompress(blob) if suffix.endswith(".gz") else blob
    except (OSError, EOFError, zlib.error) as error:
        faults.add(f"{path}: cannot be read: {error}")
        return None
    return parse_table(path, content, faults, csv=suffix.startswith(".csv"))


def parse_table(path: Path, content: bytes, faults: Faults, *, csv: bool) -> Table | None:
    """Reads JSON Lines or CSV that is in memory.

    Args:
        path: where it came from, for faults.
        content: UTF-8, with or without a byte order mark.
        faults: collects.
        csv: CSV with a header, else JSON Lines.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    if csv:
        return _read_csv(path, content, faults)
    records = tuple(_jsonl_records(path, content, faults))
    return Table(path, tuple(dict.fromkeys(name for record in records for name in record.values)), records, True)


def _jsonl_records(path: Path, content: bytes, faults: Faults) -> Iterator[Record]:
    for line, raw in enumerate(content.split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            value = json.loads(raw.decode("utf-8"), object_pairs_hook=_named_once)
        except UnicodeDecodeError as error:
            faults.add(f"{path}, line {line}: not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start})")
        except (ValueError, RecursionError) as error:
            faults.add(f"{path}, line {line}: malformed JSON: {error}")
        else:
            if isinstance(value, dict):
                yield Record(line, value)
            else:
                faults.add(f"{path}, line {line}: a JSON object is needed, got {type(value).__name__}")


def _named_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # Python would keep the last and drop the others in silence.
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is named twice")
    return found


def _read_csv(path: Path, content: bytes, faults: Faults) -> Table | None:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        faults.add(f"{path}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x})")
        return None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records: list[Record] = []
    header: list[str] | None = None
    # the module's limit of 131,072 characters a cell is for untrusted streams; a file in memory has its own limit
    limit = csv.field_size_limit(max(len(text), 1))
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = cells
                twice = sorted({name for name in header if header.count(name) > 1})
                if twice:
                    faults.add(f"{path}, line {line}: columns named twice: {', '.join(map(repr, twice))}")
                    return None
            elif len(cells) != len(header):
                faults.add(f"{path}, line {line}: {len(cells)} cells, but the header has {len(header)}")
            else:
                records.append(Record(line, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        faults.add(f"{path}, line {start}: malformed CSV: {error}")
        return None
    finally:
        csv.field_size_limit(limit)
    return Table(path, tuple(header or ()), tuple(records), False)


def _read_parquet(path: Path, faults: Faults) -> Table | None:
    import pyarrow
    import pyarrow.parquet

    try:
        # the open file keeps pyarrow from reading folder names such as client=a as columns
        with path.open("rb") as file:
            table = pyarrow.parquet.read_table(file)
        rows: Sequence[dict[str, object]] = table.to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        faults.add(f"{path}: cannot be read as Parquet: {error}")
        return None
    records = tuple(Record(number, row) for number, row in enumerate(rows, start=1))
    return Table(path, tuple(table.column_names), records, True)
