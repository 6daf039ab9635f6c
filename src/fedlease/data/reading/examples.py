"""Turns the records of a table into examples by ``data.columns``, and examples into rows."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedlease.config.data import ColumnSettings, DataSettings
from fedlease.config.tables import RowKind
from fedlease.core.names import encodable
from fedlease.data.faults import Faults, quoted, shown
from fedlease.data.federation import Row
from fedlease.data.reading.rows import Table
from fedlease.data.reading.targets import label_of, labels_of, value_of
from fedlease.data.reading.values import place_of, text_of

__all__ = [
    "Example",
    "client_id_fault",
    "folded",
    "is_selector",
    "label_list",
    "missing_column",
    "paired",
    "read_examples",
    "read_inputs",
    "to_rows",
]

_HOSTILE = re.compile(r"[/\\\x00-\x1f\x7f]")
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters that are invisible although Unicode classes them as letters, marks or symbols."""

_LONGEST_ID = 100


@dataclass(frozen=True, slots=True)
class Example:
    """One checked row that belongs to no client yet.

    Attributes:
        row: the row, before label indices are assigned: its label is 0 and it has no marks.
        place: file and line.
        labels: names of the row's labels, numbers as text; none if its target is a response or a number.
        client: value of the client column, ``""`` without one; likewise split.
        task: value of the task column, ``"default"`` without one.
    """

    row: Row
    place: tuple[Path, int]
    labels: tuple[str, ...]
    client: str
    split: str
    task: str


def read_examples(
    table: Table, columns: ColumnSettings, faults: Faults, kind: RowKind = "labels", separator: str = ","
) -> list[Example]:
    """The usable rows of a table; faults of the others are added to ``faults``.

    Args:
        kind: ``labels``, ``label sets`` or ``values``.
        separator: separator between several labels in one text.
    """
    pair = columns.text_pair or ("text_pair" if "text_pair" in table.columns else None)
    wanted = {"text": columns.text, "label": columns.label, "text_pair": columns.text_pair}
    if kind == "label sets" and columns.labels is not None:
        wanted = {**wanted, "label": None, **{f"labels.{i}": name for i, name in enumerate(columns.labels)}}
    usable = _has(table, wanted, "set data.columns.{0}", faults if table.records else Faults())
    examples = []
    for record in table.records if usable else ():
        place = (table.path, record.line)
        fault = faults.row(*place)
        text = text_of(record, columns.text, fault)
        second = text_of(record, pair, fault, required=False) if pair else None
        labels: tuple[str, ...] | None = ()
        value: float | None = None
        if kind == "values":
            value = value_of(record, columns.label, fault)
        elif kind == "label sets":
            labels = labels_of(record, table, columns, separator, fault)
        else:
            label = label_of(record, table, columns.label, fault)
            labels = None if label is None else (label,)
        if text is not None and labels is not None and (value is not None) == (kind == "values"):
            owner = place_of(record, table, columns)
            row = Row(text, second, 0, place=place, marks=() if kind == "label sets" else None, value=value)
            examples.append(Example(row, place, labels, *owner))
    return examples


def read_inputs(table: Table, columns: ColumnSettings, faults: Faults, *, pairs: bool | None) -> list[Row]:
    """The usable rows of a table, without their targets: every label is 0.

    Args:
        faults: receives the faults of the other rows.
        pairs: whether a second text is needed; None means that it is if the table has a column for it.
    """
    pair = columns.text_pair or "text_pair"
    if pairs is None:
        pairs = pair in table.columns
    wanted = {"text": columns.text, "text_pair": pair if pairs else None}
    rows = []
    for record in table.records if _has(table, wanted, "the run has data.columns.{0}={1}", faults) else ():
        fault = faults.row(table.path, record.line)
        text, second = text_of(record, columns.text, fault), text_of(record, pair, fault) if pairs else None
        if text is not None and (second is not None or not pairs):
            rows.append(Row(text, second, 0, place=(table.path, record.line)))
    return rows


def _has(table: Table, wanted: Mapping[str, str | None], remedy: str, faults: Faults) -> bool:
    absent = {key: name for key, name in wanted.items() if name is not None and name not in table.columns}
    for key, name in absent.items():
        missing_column(table, name, remedy.format(key, name), faults)
    return not absent


def missing_column(table: Table, name: str, remedy: str, faults: Faults) -> None:
    """Notes that a table lacks a column; several files that lack it share one line."""
    rule = f"no column {shown(name)}; it has {quoted(table.columns) or 'no columns'}: {remedy}"
    faults.of_file(table.path, rule, f"no column {name}", apart=1)


def label_list(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct labels, sorted as numbers if all are numbers, otherwise as text."""
    distinct = sorted(set(names))
    try:
        return tuple(sorted(distinct, key=float))
    except ValueError:
        return tuple(distinct)


def to_rows(
    examples: Iterable[Example],
    labels: tuple[str, ...],
    client: str,
    column: str,
    faults: Faults,
    *,
    stated: bool = False,
) -> tuple[Row, ...]:
    """Rows with label indices or marks; a label that is not in ``labels`` is a fault.

    Args:
        column: name of the column of labels, for faults.
        stated: whether ``labels`` come from settings, not from the client's train rows.
    """
    index = {label: position for position, label in enumerate(labels)}
    rows = []
    for example in examples:
        unknown = next((label for label in example.labels if label not in index), None)
        found = sorted(index[label] for label in example.labels if label in index)
        if unknown is not None:
            label, known = shown(unknown), quoted(labels)
            if stated:
                rule = f"the label {label} is none of data.labels, which are {known}"
                faults.row(*example.place)(column, rule, kind="a label that data.labels does not have")
            else:
                # Such a row must not be dropped: that would hide the score of a label that was never learnt.
                rule = f"client {client!r} has no train row with the label {label}; its labels are {known}"
                faults.at(*example.place, column, rule, kind="label without train row")
        elif example.row.marks is None:
            rows.append(replace(example.row, label=found[0]))
        else:
            rows.append(replace(example.row, marks=tuple(found)))
    return tuple(rows)


def paired(
    splits: Mapping[str, Sequence[Example]], whose: str, settings: DataSettings, faults: Faults
) -> dict[str, list[Example]]:
    """Ensures that all or none of a client's examples have a second text.

    If only some have one, the others are dropped if ``faults`` allows it, and are otherwise one fault.
    """
    every = [example for examples in splits.values() for example in examples]
    single = [example for example in every if example.row.text_pair is None]
    uneven, dropping = 0 < len(single) < len(every), faults.dropped is not None
    for example in (single if dropping else single[:1]) if uneven else ():
        rule = f"{whose} has a second text in other rows, but it is empty here"
        faults.row(*example.place)(settings.columns.text_pair or "text_pair", rule, kind="no second text")
    return {
        split: [example for example in examples if not (uneven and dropping and example.row.text_pair is None)]
        for split, examples in splits.items()
    }


def client_id_fault(client: str) -> str | None:
    """Why a client id cannot be the name of a folder, or None if it can; run folders have one folder per client."""
    if not encodable(client):
        return "must be valid Unicode, it has a lone surrogate"
    if client.startswith("."):
        return "must not start with a dot"
    if _HOSTILE.search(client):
        return "must not contain /, \\, NUL or another control character"
    unseen = next((c for c in client if not (c.isprintable() or c == " ") or c in _UNSEEN or is_selector(c)), None)
    if unseen is not None:
        return f"must not contain an invisible or direction-changing character, it has U+{ord(unseen):04X}"
    if len(client.encode()) > _LONGEST_ID:
        return f"must not be longer than {_LONGEST_ID} bytes, it has {len(client.encode())}"
    if client != client.strip():
        return "must not start or end with a space"
    return None


def is_selector(character: str) -> bool:
    """Whether a character selects a variant of the one before it."""
    return unicodedata.name(character, "").startswith(("VARIATION SELECTOR", "MONGOLIAN FREE VARIATION"))


def folded(client: str) -> str:
    """A client id without differences of case and Unicode form, which some file systems and readers ignore."""
    # folding case may produce characters that are not normalised
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", client).casefold())
