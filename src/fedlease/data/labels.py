"""Unifies the spellings of labels, and notes doubtful labels and clients with nothing to learn."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from fedlease.config.data import DataSettings
from fedlease.config.tables import tasks_reading
from fedlease.core.names import name_of
from fedlease.core.wording import counted, listed
from fedlease.data.faults import Faults, quoted, shown
from fedlease.data.federation import NOTHING_TO_LEARN, ClientCard, ClientData, why_nothing
from fedlease.data.reading.examples import Example, folded, is_selector
from fedlease.data.reading.tables import is_typed
from fedlease.data.reading.targets import are_measurements, joined_by
from fedlease.data.reading.values import visible

__all__ = [
    "agreed",
    "alike",
    "canonical",
    "check_tasks",
    "doubtful_labels",
    "known_label",
    "label_notes",
    "labels_over_clients",
    "nothing_to_learn",
    "one_label_notes",
    "stated_labels",
    "uneven",
]

UNEVEN = 4.0
"""Ratio of the most frequent to the rarest label from which accuracy says little about the rarest."""

SWITCHES = frozenset({"true", "false", "True", "False", "TRUE", "FALSE"})
MISSING = frozenset({"nan", "NaN", "NAN", "NaT", "None", "null", "NULL", "<NA>", "N/A", "#N/A"})
"""Words that programs write for a missing value."""


def _look(label: str) -> str:
    """A form that labels share if they differ only by case, Unicode form or how a number is written."""
    text = "".join(c for c in folded(label) if unicodedata.category(c) not in ("Cf", "Zs") and not is_selector(c))
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", text)


def agreed(
    splits: Mapping[str, Sequence[Example]], whose: str, column: str, faults: Faults, notes: list[str]
) -> dict[str, list[Example]]:
    """Renames the labels of one client's examples so that spellings of the same label become one name.

    True and false become ``true`` and ``false`` in all file types. If some file is CSV, whose cells are all text, the
    number ``1.0`` becomes ``1`` in the other files too. Labels that differ only invisibly become one, with a note. A
    label without visible characters is a fault. Repeated labels of a row are dropped.
    """
    every = [example for examples in splits.values() for example in examples]
    untyped = not all(is_typed(example.place[0]) for example in every)
    written = Counter(label for example in every for label in example.labels)
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
        if empty := [label for label in example.labels if not names[label]]:
            faults.row(*example.place)(column, f"a label must not be empty, got {shown(empty[0])}")
    return {
        split: [
            replace(example, labels=tuple(dict.fromkeys(names[label] for label in example.labels)))
            for example in examples
            if all(names[label] for label in example.labels)
        ]
        for split, examples in splits.items()
    }


def canonical(label: str, *, typed: bool = True) -> str:
    """The name of a label, whatever its spelling; ``typed`` says whether the text ``1.0`` differs from the number 1."""
    name = visible(label)
    plain = name_of(name, typed=typed) or name
    return plain.lower() if plain in SWITCHES else plain


def known_label(value: object, labels: Sequence[str], *, typed: bool) -> str | None:
    """The label in a cell, spelt as in the client's ``labels`` if it is one of them; None for an empty cell.

    Args:
        typed: whether the table of the cell tells numbers from text.
    """
    name = name_of(value, typed)
    if name is None:
        return None
    forms = (name, canonical(name), canonical(name, typed=False))
    return next((form for form in forms if form in labels), canonical(name))


def alike(labels: Iterable[str]) -> list[list[str]]:
    """Groups of labels that differ only by case, Unicode form or how a number is written."""
    groups: dict[str, list[str]] = {}
    for label in sorted(set(labels)):
        groups.setdefault(_look(label), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def doubtful_labels(labels: Mapping[str, int], whose: str) -> list[str]:
    """Notes of what is doubtful in one list of labels, given as label -> number of rows."""
    notes = []
    for group in alike(labels):
        counts = " and ".join(f"{shown(label)} ({counted(labels[label], 'row')})" for label in group)
        notes.append(
            f"{whose}: labels that differ only by case, Unicode form or the way a number is written are learnt as "
            f"different labels: {counts}"
        )
    notes += [
        f"{whose}: {counted(labels[label], 'row')} with the label {label!r}, which reads as a missing value"
        for label in sorted(MISSING & set(labels))
    ]
    if are_measurements(labels):
        notes.append(
            f"{whose}: its labels look like measurements ({len(labels)} distinct numbers in "
            f"{counted(sum(labels.values()), 'row')}), and each number is a class of its own here; to learn them as "
            f"numbers set task={' or '.join(tasks_reading('values'))}"
        )
    elif mark := joined_by(labels):
        notes.append(
            f"{whose}: its labels look like several in one text, with {mark!r} between them; to learn each of them set "
            f"task={' or '.join(tasks_reading('label sets'))} and data.label_separator"
        )
    return notes


def stated_labels(settings: DataSettings, task: str) -> tuple[str, ...]:
    """The labels that ``data.labels`` gives a task; none if it gives none."""
    labels = settings.labels.get(task) if isinstance(settings.labels, dict) else settings.labels
    return tuple(dict.fromkeys(map(canonical, labels or ())))


def check_tasks(settings: DataSettings, tasks: Iterable[str], faults: Faults) -> None:
    """Adds a fault for every task that ``data.labels`` names and no client has."""
    known = sorted(set(tasks))
    for task in settings.labels if isinstance(settings.labels, dict) else ():
        if task not in known:
            faults.add(f"data.labels: no client has the task {task!r}; tasks are {', '.join(map(repr, known))}")


def nothing_to_learn(clients: Sequence[ClientData]) -> list[str]:
    """Reasons why no task has anything to learn, one sentence per task; empty if some task has.

    Clients with one label each can learn from one another if their heads have outputs for several labels.
    """
    if not all(client.labels for client in clients):
        return []
    faults: list[str] = []
    for task, members in _by_task(clients).items():
        trained = {member.id: _answers(member) for member in members}
        if len(set().union(*(trained[member.id] for member in members if member.weight))) > 1:
            return []
        union = sorted(set().union(*trained.values()))
        if len(union) == 1:
            needed = "values" if members[0].kind == "values" else "labels"
            faults.append(
                f"task {task!r}: every row has the {needed[:-1]} {union[0]}; at least two {needed} are needed"
            )
        elif members[0].kind == "values":
            faults.append(f"task {task!r}: each of its {len(members)} clients has one value only, so nobody can learn")
        else:
            faults.append(
                f"task {task!r}: each of its {len(members)} clients knows one label only; there is nothing to learn "
                "unless data.labels states the labels of the task"
            )
    return faults


def _answers(client: ClientData) -> set[str]:
    """The distinct targets of a client's train rows, as texts."""
    if client.kind == "values":
        return {f"{row.value:g}" for row in client.train}
    return {", ".join(repr(client.labels[kind]) for kind in row.kinds if kind >= 0) for row in client.train}


def labels_over_clients(clients: Iterable[ClientData]) -> list[str]:
    """Notes of labels that clients of one task write in different ways."""
    notes = []
    for task, members in _by_task(client for client in clients if client.kind != "values").items():
        for group in alike(label for member in members for label in member.labels):
            users = {label: [member.id for member in members if label in member.labels] for label in group}
            if max(sum(label in member.labels for label in group) for member in members) == 1:
                forms = " and ".join(f"{shown(label)} (clients {quoted(who)})" for label, who in users.items())
                notes.append(f"task {task!r}: clients write the same label in different ways: {forms}")
    return notes


def uneven(clients: Iterable[ClientData]) -> str:
    """A sentence on the client with the median ratio of frequent to rare labels; empty if that is below UNEVEN."""
    found = []
    for client in clients:
        counts = {label: train for label, (train, _) in client.by_label.items() if train}
        if len(counts) > 1:
            most, rarest = (choose(counts, key=lambda label: counts[label]) for choose in (max, min))
            found.append((counts[most] / counts[rarest], client.id, most, rarest))
    if not found or (middle := sorted(found)[len(found) // 2])[0] < UNEVEN:
        return ""
    ratio, whose, most, rarest = middle
    others = f", and at least half of the {len(found)} clients are as uneven" if len(found) > 1 else ""
    return f"{shown(most)} has {ratio:.1f} times as many train rows as {shown(rarest)} at client {shown(whose)}{others}"


def _by_task(clients: Iterable[ClientData]) -> dict[str, list[ClientData]]:
    tasks: dict[str, list[ClientData]] = {}
    for client in clients:
        tasks.setdefault(client.task, []).append(client)
    return tasks


def one_label_notes(clients: Iterable[ClientData | ClientCard]) -> list[str]:
    """Notes of clients whose train rows all have one label or one number."""
    notes = []
    for client in clients:
        reason = why_nothing(client)
        if reason == NOTHING_TO_LEARN:
            notes.append(
                f"client {client.id!r}: all train rows have the label {client.labels[0]!r}, so its head has one "
                "output and its loss is 0: it learns nothing, is not asked to train, and is left out of every mean; "
                "data.labels would give it the labels of its task"
            )
        elif reason:
            assert client.scale is not None
            notes.append(
                f"client {client.id!r}: all train rows have the value {client.scale[0]:g}, whatever their texts: it "
                "learns nothing, is not asked to train, and is left out of every mean"
            )
    return notes


def label_notes(client: ClientData) -> list[str]:
    """Notes of a client whose train rows all have the same labels, or whose test rows have further labels."""
    notes = one_label_notes([client])
    if client.kind == "values" or not client.labels:
        return notes
    trained = {kind for row in client.train for kind in row.kinds}
    if client.kind == "labels" and len(client.labels) > 1 and len(trained) == 1:
        (label,) = trained
        notes.append(f"client {client.id!r}: all train rows have the label {client.labels[label]!r}")
    elif client.kind == "label sets" and len({row.kinds for row in client.train}) == 1:
        notes.append(f"client {client.id!r}: all train rows have the same labels: {listed(sorted(_answers(client)))}")
    unseen = [{kind for kind in row.kinds if kind >= 0} - trained for row in client.test]
    if missed := sum(map(bool, unseen)):
        names = ", ".join(repr(client.labels[label]) for label in sorted(set().union(*unseen)))
        rows = f"{counted(missed, 'test row')} {'has a label' if missed == 1 else 'have labels'}"
        notes.append(f"client {client.id!r}: {rows} that none of its train rows has: {names}")
    return notes
