"""Checks of single values of a table: texts, and names such as labels, clients and tasks."""

import math
import re
from collections.abc import Callable

from fedlease.config import ColumnSettings
from fedlease.data.tables import Record, Table

__all__ = ["OnFault", "Place", "name_fault", "name_of", "place_of", "text_fault", "text_of"]

OnFault = Callable[[str, str], None]
"""Receives a column and the rule that its value breaks."""

Place = tuple[str, str, str]
"""Client, split and task of a row."""

_WHOLE = re.compile(r"([+-]?\d+)\.0+")


def text_of(record: Record, column: str, fault: OnFault, *, what: str = "text", required: bool = True) -> str | None:
    """The text in a column.

    Args:
        record: a row.
        column: its column.
        fault: told what is wrong.
        what: what the text is called in faults.
        required: whether absent and empty texts are faults.

    Returns:
        The text as it is, or None when there is none to use.
    """
    value = record.values.get(column)
    if not required and (value is None or (isinstance(value, str) and not value.strip())):
        return None
    rule = "is missing" if column not in record.values else text_fault(value, what)
    if rule is not None:
        fault(column, rule)
    return value if rule is None and isinstance(value, str) else None


def text_fault(value: object, what: str) -> str | None:
    """Why a value cannot be a text, or None when it can."""
    article = "an" if what[0] in "aeiou" else "a"
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"{article} {what} must not be empty, got {value!r}"
    if not isinstance(value, str):
        return f"{article} {what} must be a string, got {value!r}"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"{article} {what} must be valid Unicode, got a lone surrogate at position {error.start}"
    return None


def name_of(value: object, typed: bool) -> str | None:
    """A label or client as text: 1, 1.0 and (in CSV) "1.0" are all "1"; true is "true"; None when it is no name."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or not value.strip() or not encodable(value):
        return None
    whole = None if typed else _WHOLE.fullmatch(value)
    return whole[1] if whole else value


def encodable(value: str) -> bool:
    """Whether a text can be written: JSON can hold halves of characters (lone surrogates), UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def name_fault(value: object, present: bool) -> str:
    """Why :func:`name_of` gives no name for a label."""
    if not present:
        return "is missing"
    if value is None or value == "":
        return f"a label must not be empty, got {value!r}"
    return f"a label must be a name or a number, got {value!r}"


def place_of(record: Record, table: Table, columns: ColumnSettings, *, in_one_file: bool) -> Place:
    """Client, split and task of a row; ``""``, ``""`` and ``"default"`` where its columns do not say.

    Args:
        record: a row of the table.
        table: what the file holds.
        columns: names of the columns.
        in_one_file: whether client and split are columns of this file instead of names of folders and files.
    """

    def optional(name: str, default: str) -> str:
        value = record.values.get(name)
        return default if value is None or value == "" else name_of(value, table.typed) or default

    client = optional(columns.client, "") if in_one_file else ""
    split = optional(columns.split, "") if in_one_file else ""
    return client, split, optional(columns.task, "default")
