"""Reads CSV with a header, and protects written cells from being taken for formulas by spreadsheets."""

import csv
import re
from collections import Counter
from collections.abc import Iterator

from fedlease.core.wording import counted
from fedlease.data.faults import quoted
from fedlease.data.reading.rows import Gathered, Readable, bounded_lines

__all__ = ["PREDICTION", "as_text", "read_csv_rows"]

PREDICTION = "prediction"
"""A column that marks files written by ``fedlease predict``."""

CELLS = "more or fewer cells than the header"

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def as_text(cell: object) -> object:
    """Puts an apostrophe before a text that a spreadsheet would take for a formula.

    These are texts, other than numbers, that begin with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return, or with
    apostrophes followed by one of them. Removing one apostrophe restores the text.
    """
    risky = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if risky else cell


def read_csv_rows(file: Readable, rows: Gathered, delimiter: str) -> None:
    """Reads a header and the rows below it; removes the apostrophes of :func:`as_text` in files of predictions."""
    reader = csv.reader(_lines(file, rows), strict=True, delimiter=delimiter)
    # the csv module's default of 131,072 characters per cell is too low for texts
    limit = csv.field_size_limit(rows.limits.row_bytes)
    header: list[str] | None = None
    start = 1
    written_by_us = False
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                rows.check_width(line, len(cells))
                written_by_us = PREDICTION in cells
                header = [_plain(cell) for cell in cells] if written_by_us else cells
                twice = sorted(name for name, count in Counter(header).items() if count > 1)
                if twice:
                    rows.stop(line, f"columns named twice: {quoted(twice)}", "twice")
                rows.columns.update(dict.fromkeys(header))
            elif len(cells) != len(header):
                rows.refuse(line, f"{counted(len(cells), 'cell')}, but the header has {len(header):,}", CELLS)
            else:
                values = map(_plain, cells) if written_by_us else cells
                rows.take(line, dict(zip(header, values, strict=True)))
    except csv.Error as error:
        rows.stop(start, f"malformed CSV: {error}", "malformed CSV")
    finally:
        csv.field_size_limit(limit)


def _plain(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def _lines(file: Readable, rows: Gathered) -> Iterator[str]:
    """Decoded lines with their ends: a line feed, a carriage return or both."""
    for _, text in bounded_lines(file, rows, whole=True):
        yield from filter(None, _LINES.findall(text))
