"""Reads JSON, CSV, TSV, Parquet and Arrow files into tables, and collects every fault."""

import gzip
import io
import stat
import zlib
from pathlib import Path
from typing import IO

from fedlease.config.data import LimitSettings
from fedlease.data.faults import Faults
from fedlease.data.reading.arrow_rows import read_arrow_rows, read_parquet_rows
from fedlease.data.reading.csv_rows import read_csv_rows
from fedlease.data.reading.forms import GUESSED, Form, delimiter_of, in_utf8
from fedlease.data.reading.json_rows import read_json_rows
from fedlease.data.reading.rows import Gathered, Readable, StoppedError, Table

__all__ = ["SUFFIXES", "is_typed", "parse_table", "read_table", "split_name"]

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".arrow")
"""Known file types."""

PACKED = (".parquet", ".arrow")


def split_name(path: Path) -> tuple[str, str]:
    """Stem and suffix: ``train.csv.gz`` -> ``("train", ".csv.gz")``, ``train.tar.gz`` -> ``("train.tar", ".gz")``."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)], suffix
    return path.stem, path.suffix.lower()


def is_typed(path: Path) -> bool:
    """Whether the type of a file tells numbers from text, which all but CSV and TSV do."""
    return not split_name(path)[1].startswith((".csv", ".tsv"))


def read_table(path: Path, faults: Faults, limits: LimitSettings | None = None, form: Form = GUESSED) -> Table | None:
    """Reads one file; returns None, and adds the reason to ``faults``, if it cannot be read."""
    suffix = split_name(path)[1]
    if suffix not in SUFFIXES:
        faults.of_file(path, f"file type {suffix!r} is not one of {', '.join(SUFFIXES)}", "type")
        return None
    rows = Gathered(path, limits or LimitSettings(), faults)
    try:
        mode, size = path.stat().st_mode, path.stat().st_size
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
            faults.of_file(path, f"is {kind}, and a file of rows is needed", "no file")
            return None
        if size > rows.limits.file_bytes:
            most = f"at most {rows.limits.file_bytes:,} are read (data.limits.file_bytes)"
            faults.of_file(path, f"the file has {size:,} bytes, and {most}", "size")
            return None
        with path.open("rb") as file:
            if suffix in PACKED:
                return _packed(file, rows, suffix)
            content = gzip.GzipFile(fileobj=file) if suffix.endswith(".gz") else file
            return _text(content, rows, suffix, form)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        faults.of_file(path, f"cannot be read: {error}", "cannot be read")
        return None


def parse_table(
    path: Path,
    content: bytes,
    faults: Faults,
    *,
    csv: bool,
    limits: LimitSettings | None = None,
    form: Form = GUESSED,
) -> Table | None:
    """Reads ``content`` as CSV with a header, or as JSON; faults name ``path`` as its place."""
    rows = Gathered(path, limits or LimitSettings(), faults)
    return _text(io.BytesIO(content), rows, ".csv" if csv else ".jsonl", form)


def _text(file: Readable, rows: Gathered, suffix: str, form: Form) -> Table | None:
    cells = suffix.startswith((".csv", ".tsv"))
    try:
        content = in_utf8(file, rows, form, guess=cells)
        if cells:
            mark = "\t" if suffix.startswith(".tsv") else delimiter_of(content, rows, form)
            read_csv_rows(content, rows, mark)
        else:
            read_json_rows(content, rows)
    except StoppedError:
        return None
    return rows.table(typed=not cells)


def _packed(file: IO[bytes], rows: Gathered, suffix: str) -> Table | None:
    import pyarrow

    kind, read = ("Parquet", read_parquet_rows) if suffix == ".parquet" else ("Arrow", read_arrow_rows)
    try:
        read(file, rows)
    except StoppedError:
        return None
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        rows.faults.of_file(rows.path, f"cannot be read as {kind}: {error}", kind)
        return None
    return rows.table(typed=True)
