"""Checks single values of a table: texts, and names such as labels, clients and tasks."""

import unicodedata
from collections.abc import Callable

from fedlease.config.data import ColumnSettings
from fedlease.core.names import LONGEST_NAME, name_of
from fedlease.core.wording import JOINERS
from fedlease.data.faults import shown
from fedlease.data.reading.rows import Record, Table

__all__ = ["OnFault", "name_fault", "place_of", "text_fault", "text_of", "visible"]

OnFault = Callable[[str, str], None]
"""Receives a column and the rule that its value breaks."""


def text_of(record: Record, column: str, fault: OnFault, *, what: str = "text", required: bool = True) -> str | None:
    """The text in a column, unchanged; None if it cannot be used, with the reason reported to ``fault``.

    Args:
        what: name of the text in faults.
        required: whether absent and empty texts are faults.
    """
    value = record.values.get(column)
    if not required and _blank(value):
        return None
    rule = "is missing" if column not in record.values else text_fault(value, what)
    if rule is not None:
        fault(column, rule)
    return value if rule is None and isinstance(value, str) else None


def _blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def text_fault(value: object, what: str) -> str | None:
    """The rule that keeps a value from being a text, or None."""
    must = f"{'an' if what[0] in 'aeiou' else 'a'} {what} must"
    if _blank(value):
        return f"{must} not be empty, got {shown(value)}"
    if not isinstance(value, str):
        return f"{must} be a string, got {shown(value)}"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"{must} be valid Unicode, got a lone surrogate at position {error.start}"
    return None


def visible(name: str) -> str:
    """A name in Unicode's NFC form, without format characters and superfluous spaces.

    Joiners stay, since words of Persian and Hindi, and joined emoji, differ without them.
    """
    text = unicodedata.normalize("NFC", name)
    kept = "".join(c for c in text if c in JOINERS or unicodedata.category(c) != "Cf")
    return " ".join(kept.split())


def name_fault(value: object, present: bool) -> str:
    """Why :func:`fedlease.core.names.name_of` gives no name for a label."""
    if not present:
        return "is missing"
    if _blank(value):
        return f"a label must not be empty, got {shown(value)}"
    if isinstance(value, str) and len(value) > LONGEST_NAME:
        return f"a label must have at most {LONGEST_NAME:,} characters, got one of {len(value):,}: {shown(value)}"
    return f"a label must be a name or a number, got {shown(value)}"


def place_of(record: Record, table: Table, columns: ColumnSettings) -> tuple[str, str, str]:
    """Client, split and task of a row; ``""``, ``""`` and ``"default"`` if it does not state them."""

    def optional(name: str, default: str) -> str:
        value = record.values.get(name)
        return default if value is None or value == "" else name_of(value, table.typed) or default

    task = visible(optional(columns.task, "default")) or "default"
    return optional(columns.client, ""), visible(optional(columns.split, "")), task
