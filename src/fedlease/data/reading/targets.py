"""Reads the targets of rows: a label, any number of labels, or a number."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from fedlease.config.data import ColumnSettings
from fedlease.core.names import name_of
from fedlease.data.faults import shown
from fedlease.data.reading.rows import Record, Table
from fedlease.data.reading.values import OnFault, name_fault

__all__ = [
    "LARGEST",
    "are_measurements",
    "joined_by",
    "label_of",
    "labels_of",
    "listed_in",
    "number_of",
    "value_of",
]

LARGEST = 1e12
"""Largest absolute value of a number, which keeps squares of sums finite."""

SEPARATORS = ",;|"
OFTEN = 0.2
"""Share of rows that must contain a character for it to be taken as the separator of labels."""

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_FLAGS = {"0": False, "1": True, "false": False, "true": True}


def label_of(record: Record, table: Table, column: str, fault: OnFault) -> str | None:
    """The label of a row; None if it cannot be used, with the reason reported to ``fault``."""
    value = record.values.get(column)
    label = name_of(value, table.typed)
    if label is None:
        fault(column, name_fault(value, column in record.values))
    return label


def labels_of(
    record: Record, table: Table, columns: ColumnSettings, separator: str, fault: OnFault
) -> tuple[str, ...] | None:
    """The labels of a row, possibly none; None if they cannot be used, with the reason reported to ``fault``.

    With ``columns.labels``, they are the names of those columns whose value is 1. Otherwise the label column has a
    list, a list as JSON text, or a text with ``separator`` between the labels.
    """
    if columns.labels is not None:
        return _flagged(record, columns.labels, fault)
    column = columns.label
    value = record.values.get(column)
    if column not in record.values or value is None:
        fault(column, "is missing; a row without labels has an empty list")
        return None
    parts = listed_in(value, separator)
    if parts is None:
        fault(column, f"must be a list of labels, or a text with {separator!r} between them, got {shown(value)}")
        return None
    names = [name_of(part, table.typed) for part in parts]
    wrong = next((part for part, name in zip(parts, names, strict=True) if name is None), None)
    if None in names:
        fault(column, name_fault(wrong, present=True))
        return None
    return tuple(name for name in names if name is not None)


def listed_in(value: object, separator: str) -> Sequence[object] | None:
    """The labels in a cell as they are written; None if the cell has neither a text nor a list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, str):
        return [part.strip() for part in value.split(separator) if part.strip()]
    return value if isinstance(value, list) else None


def _flagged(record: Record, names: Sequence[str], fault: OnFault) -> tuple[str, ...] | None:
    found = []
    for name in names:
        flag = _FLAGS.get(name_of(record.values.get(name), typed=False) or "")
        if flag is None:
            value = record.values.get(name)
            fault(name, f"must be 0 or 1, got {shown(value)}" if name in record.values else "is missing")
            return None
        found += [name] if flag else []
    return tuple(found)


def value_of(record: Record, column: str, fault: OnFault) -> float | None:
    """The number of a row; None if it cannot be used, with the reason reported to ``fault``."""
    value = record.values.get(column)
    number = number_of(value)
    if number is None:
        rule = f"must be a finite number of at most {LARGEST:g}, got {shown(value)}"
        fault(column, rule if column in record.values else "is missing")
    return number


def number_of(value: object) -> float | None:
    """The number in a cell, also if it is written as text; None if it is no number or exceeds :data:`LARGEST`."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) <= LARGEST else None


def are_measurements(labels: Mapping[str, int]) -> bool:
    """Whether labels, given as label -> number of rows, are numbers with fractions that rarely repeat."""
    if len(labels) < 5 or 2 * len(labels) < sum(labels.values()):
        return False
    try:
        values = [float(label) for label in labels]
    except ValueError:
        return False
    return any(value % 1 for value in values)


def joined_by(labels: Mapping[str, int]) -> str:
    """The separator of several labels in one text, given text -> number of rows; empty if there is none.

    A character is the separator if it is in many rows and most of the parts between it occur in several texts.
    """
    rows = sum(labels.values())
    for mark in SEPARATORS:
        several = [label for label in labels if mark in label]
        parts = Counter(part.strip() for label in labels for part in label.split(mark))
        recurring = sum(count > 1 for count in parts.values())
        if sum(labels[label] for label in several) > OFTEN * rows and 2 * recurring > len(parts) < len(labels):
            return mark
    return ""
