"""Labels that mean the same however a file writes them, and labels that only look the same."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from fedlease.core.names import name_of
from fedlease.core.wording import counted
from fedlease.data.faults import Faults, shown
from fedlease.data.reading.examples import Example, folded, is_selector
from fedlease.data.reading.tables import split_name
from fedlease.data.reading.values import visible

__all__ = ["agreed", "alike", "canonical", "doubtful_labels", "regression"]

SWITCHES = frozenset({"true", "false", "True", "False", "TRUE", "FALSE"})
MISSING = frozenset({"nan", "NaN", "NAN", "NaT", "None", "null", "NULL", "<NA>", "N/A", "#N/A"})
"""What programs write for a value that is not there."""


def _look(label: str) -> str:
    text = "".join(c for c in folded(label) if unicodedata.category(c) not in ("Cf", "Zs") and not is_selector(c))
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", text)


def agreed(
    splits: Mapping[str, Sequence[Example]], whose: str, column: str, faults: Faults, notes: list[str]
) -> dict[str, list[Example]]:
    """The examples of one label list, with one name for labels that are the same.

    The words for true and false are ``true`` and ``false`` in all file types. Where a CSV file is among the files,
    whose cells are all text, ``1.0`` is ``1`` in the others too. What differs invisibly is one label.

    Labels of nothing visible are faults. ``notes`` takes which labels of whose rows were read as one, and how many rows
    that concerns.
    """
    every = [example for examples in splits.values() for example in examples]
    untyped = any(split_name(example.place[0])[1].startswith(".csv") for example in every)
    written = Counter(example.label for example in every)
    names = {label: canonical(label, typed=not untyped) for label in written}
    for name in dict.fromkeys(names.values()):
        forms = [label for label in written if visible(label) != label and names[label] == name]
        if forms and len([label for label in written if names[label] == name]) > 1:
            rows = counted(sum(written[form] for form in forms), "row")
            notes.append(
                f"{whose}: labels that differ from {shown(name)} only by space, Unicode form or what is invisible "
                f"are read as the same label: {', '.join(map(ascii, forms))} ({rows})"
            )
    for example in every:
        if not names[example.label]:
            faults.at(*example.place, column, f"a label must not be empty, got {shown(example.label)}")
    return {
        split: [replace(example, label=names[example.label]) for example in examples if names[example.label]]
        for split, examples in splits.items()
    }


def canonical(label: str, *, typed: bool = True) -> str:
    """The name of a label, however it is written; ``typed`` says whether text ``1.0`` and number 1 are different."""
    name = visible(label)
    plain = name_of(name, typed=typed) or name
    return plain.lower() if plain in SWITCHES else plain


def alike(labels: Iterable[str]) -> list[list[str]]:
    """Groups of labels that look the same but for case, Unicode form or how a number is written."""
    groups: dict[str, list[str]] = {}
    for label in sorted(set(labels)):
        groups.setdefault(_look(label), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def doubtful_labels(labels: Mapping[str, int], whose: str) -> list[str]:
    """What is doubtful about the labels of one list, given as label -> number of rows."""
    notes = []
    for group in alike(labels):
        counts = " and ".join(f"{shown(label)} ({counted(labels[label], 'row')})" for label in group)
        notes.append(
            f"{whose}: labels that differ only by case, Unicode form or the way a number is written are learnt apart: "
            f"{counts}"
        )
    notes += [
        f"{whose}: {counted(labels[label], 'row')} with the label {label!r}, which reads as a missing value"
        for label in sorted(MISSING & set(labels))
    ]
    if regression(labels):
        notes.append(
            f"{whose}: its labels look like measurements ({len(labels)} distinct numbers in "
            f"{counted(sum(labels.values()), 'row')}); each number is a class of its own, so put them into ranges first"
        )
    return notes


def regression(labels: Mapping[str, int]) -> bool:
    """Whether labels are numbers with fractions that hardly repeat, as of a regression."""
    if len(labels) < 5 or 2 * len(labels) < sum(labels.values()):
        return False
    try:
        values = [float(label) for label in labels]
    except ValueError:
        return False
    return any(value % 1 for value in values)
