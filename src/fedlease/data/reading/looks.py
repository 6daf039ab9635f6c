"""What rows that cannot be used look like, and what mends them."""

from collections.abc import Sequence

from fedlease.config.data import ColumnSettings
from fedlease.config.tables import RowKind, tasks_reading
from fedlease.data.faults import Faults, quoted
from fedlease.data.reading.rows import Table

__all__ = ["add_hints", "hint_at_measurements"]

LOOKED_AT = 200
"""Rows from which a guess is made."""

SEPARATORS = ";\t|,"
CHATS = ({"messages"}, {"conversations"}, {"prompt", "response"}, {"prompt", "completion"}, {"instruction", "output"})


def add_hints(table: Table, columns: ColumnSettings, kind: RowKind, faults: Faults) -> None:
    """Adds hints about a table in which faults were found, read as rows of a kind."""
    if kind == "responses":
        if columns.text in table.columns and columns.label in table.columns:
            task = " or ".join(tasks_reading("labels"))
            faults.hint("task", f"The rows look like texts with labels: set task={task} to train on them.")
        return
    lists = [name for name in table.columns if _share(table, name, list) > 0.5]
    chats = next((form for form in CHATS if form <= set(table.columns)), None)
    missing = [name for name in (columns.text, columns.label) if name not in table.columns]
    if missing and chats:
        faults.hint(
            "task",
            f"The rows look like chats or instructions (columns {quoted(sorted(chats))}): set "
            f"task={' or '.join(tasks_reading('responses'))} to train on them.",
        )
    elif len(lists) > 1 or columns.text in lists:
        faults.hint(
            "tokens",
            f"The rows look like lists of tokens, as of named entities (columns {quoted(lists)}): fedlease gives a "
            "whole text one label, so join the tokens and choose one label for each text.",
        )
    elif columns.label in lists:
        faults.hint(
            "lists",
            "The rows look like multi-label ones: a row has one label here, so keep its most important one, or make "
            "the combination a label, such as 'a+b'.",
        )
    elif missing and len(table.columns) == 1 and any(mark in table.columns[0] for mark in SEPARATORS):
        mark = next(mark for mark in SEPARATORS if mark in table.columns[0])
        faults.hint(
            "separator", f"The columns look to be separated by {mark!r}: set data.delimiter to it, or leave it out."
        )
    elif missing:
        _guess_columns(table, columns, missing, faults)


def hint_at_measurements(faults: Faults) -> None:
    """Adds the hint about labels that are measurements."""
    faults.hint(
        "regression",
        "The labels look like measurements, as of a regression: each number is a class of its own here, so put them "
        "into ranges first, such as 'low', 'middle' and 'high'.",
    )


def _guess_columns(table: Table, columns: ColumnSettings, missing: Sequence[str], faults: Faults) -> None:
    places = {columns.client, columns.split, columns.task, columns.text_pair}
    free = [name for name in table.columns if name not in places]
    texts = sorted((name for name in free if _share(table, name, str) > 0.5), key=lambda name: -_length(table, name))
    text = columns.text if columns.text not in missing else next(iter(texts), None)
    labels = [name for name in free if name != text and _few_values(table, name)]
    named = sorted(labels, key=lambda name: not any(word in name.lower() for word in ("label", "class", "target")))
    label = columns.label if columns.label not in missing else next(iter(named), None)
    found = [(key, name) for key, name in (("text", text), ("label", label)) if name is not None]
    guessed = [(key, name) for key, name in found if getattr(columns, key) in missing]
    if guessed:
        holds = " and ".join(f"the {key}s in {name!r}" for key, name in guessed)
        sets = " ".join(f"--set data.columns.{key}={name}" for key, name in guessed)
        faults.hint("columns", f"The rows look to have {holds}: add {sets}.")


def _values(table: Table, column: str) -> list[object]:
    values = (record.values.get(column) for record in table.records[:LOOKED_AT])
    return [value for value in values if value is not None]


def _share(table: Table, column: str, kind: type) -> float:
    values = _values(table, column)
    return sum(isinstance(value, kind) for value in values) / max(len(values), 1)


def _length(table: Table, column: str) -> float:
    texts = [value for value in _values(table, column) if isinstance(value, str)]
    return sum(map(len, texts)) / max(len(texts), 1)


def _few_values(table: Table, column: str) -> bool:
    values = _values(table, column)
    if not values or not all(isinstance(value, str | int | float | bool) for value in values):
        return False
    distinct = len(set(values))
    return distinct <= max(2, len(values) // 2) and distinct <= max(20, len(values) // 10)
