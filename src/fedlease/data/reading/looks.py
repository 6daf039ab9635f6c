"""Recognises common reasons why rows cannot be used, and hints at remedies."""

from collections.abc import Sequence

from fedlease.config.data import ColumnSettings
from fedlease.config.tables import RowKind, tasks_reading
from fedlease.data.faults import Faults, in_memory, quoted
from fedlease.data.reading.columns import CHATS, guess_columns, tokens_words
from fedlease.data.reading.rows import Table
from fedlease.data.reading.targets import number_of
from fedlease.errors import DataError

__all__ = ["add_hints", "hint_at_measurements"]

LOOKED_AT = 200
"""Number of rows on which a guess is based."""

SEPARATORS = ";\t|,"


def add_hints(table: Table, columns: ColumnSettings, kind: RowKind, faults: Faults) -> None:
    """Adds hints about a table in which faults were found when it was read as rows of ``kind``."""
    if kind == "responses":
        if columns.text in table.columns and columns.label in table.columns:
            faults.hint("task", f"The rows look like texts with labels: set task={_tasks('labels')} to train on them.")
        return
    lists = [name for name in table.columns if _share(table, name, list) > 0.5]
    chats = next((form for form in CHATS if form <= set(table.columns)), None)
    missing = [name for name in (columns.text, columns.label) if name not in table.columns]
    if missing and chats:
        faults.hint(
            "task",
            f"The rows look like chats or instructions (columns {quoted(sorted(chats))}): set "
            f"task={_tasks('responses')} to train on them.",
        )
    elif len(lists) > 1 or columns.text in lists:
        faults.hint("tokens", tokens_words(lists))
    elif columns.label in lists and kind != "label sets":
        faults.hint(
            "lists", f"The rows look like rows with several labels each: set task={_tasks('label sets')} to learn them."
        )
    elif kind == "values" and columns.label in table.columns:
        if not any(number_of(value) is not None for value in _values(table, columns.label)):
            faults.hint("task", f"The labels seem to be no numbers: set task={_tasks('labels')}.")
    elif missing and len(table.columns) == 1 and any(mark in table.columns[0] for mark in SEPARATORS):
        mark = next(mark for mark in SEPARATORS if mark in table.columns[0])
        faults.hint(
            "separator", f"The columns seem to be separated by {mark!r}: set data.delimiter to it, or leave it out."
        )
    elif missing:
        _guess_columns(table, columns, missing, kind, faults)


def hint_at_measurements(faults: Faults) -> None:
    """Adds the hint about labels that are measurements."""
    faults.hint(
        "regression",
        f"The labels look like measurements: set task={_tasks('values')} to learn them as numbers, or put them into "
        "ranges such as 'low', 'middle' and 'high'.",
    )


def _tasks(kind: RowKind) -> str:
    return " or ".join(tasks_reading(kind))


def _guess_columns(
    table: Table, columns: ColumnSettings, missing: Sequence[str], kind: RowKind, faults: Faults
) -> None:
    stated = {key: name for key in ColumnSettings.model_fields if (name := getattr(columns, key)) in table.columns}
    try:
        guess = guess_columns([table], clients=False, stated=stated, kind=kind)
    except DataError:
        return
    guessed = [(key, guess.columns.get(key, key)) for key in ("text", "label") if getattr(columns, key) in missing]
    holds = " and ".join(f"the {key}s in {name!r}" for key, name in guessed)
    if in_memory(table.path):
        words = ", ".join(f"data__columns__{key}={name!r}" for key, name in guessed)
    else:
        words = " ".join(f"--set data.columns.{key}={name}" for key, name in guessed)
    faults.hint("columns", f"The rows seem to have {holds}: add {words}.")


def _values(table: Table, column: str) -> list[object]:
    values = (record.values.get(column) for record in table.records[:LOOKED_AT])
    return [value for value in values if value is not None]


def _share(table: Table, column: str, kind: type) -> float:
    values = _values(table, column)
    return sum(isinstance(value, kind) for value in values) / max(len(values), 1)
