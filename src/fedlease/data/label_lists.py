"""Label lists that the settings state, and clients whose labels leave nothing to learn."""

from collections.abc import Iterable, Sequence

from fedlease.config.data import DataSettings
from fedlease.core.wording import counted
from fedlease.data.federation import ClientCard, ClientData
from fedlease.data.reading.labels import canonical

__all__ = ["label_notes", "nothing_to_learn", "one_label_notes", "stated_labels", "unknown_tasks"]


def stated_labels(settings: DataSettings, task: str) -> tuple[str, ...]:
    """The labels that ``data.labels`` gives a task; none where it does not say."""
    stated = settings.labels
    labels = stated if isinstance(stated, tuple) else (stated or {}).get(task, ())
    return tuple(dict.fromkeys(canonical(label) for label in labels))


def unknown_tasks(settings: DataSettings, tasks: Iterable[str]) -> list[str]:
    """A fault for every task that ``data.labels`` names and no client has."""
    known = sorted(set(tasks))
    named = settings.labels if isinstance(settings.labels, dict) else {}
    listed = ", ".join(map(repr, known))
    return [f"data.labels: no client has the task {task!r}; tasks are {listed}" for task in named if task not in known]


def nothing_to_learn(clients: Sequence[ClientData]) -> list[str]:
    """Why classification has nothing to learn from, a sentence per task; empty where some task has two labels.

    Clients of one label each can learn from one another where their heads have the outputs for it.
    """
    faults: list[str] = []
    by_task: dict[str, list[ClientData]] = {}
    for client in clients:
        if not client.labels:
            return []
        by_task.setdefault(client.task, []).append(client)
    for task, members in by_task.items():
        trained = {member.id: {member.labels[row.label] for row in member.train} for member in members}
        if len(set().union(*(trained[member.id] for member in members if member.weight))) > 1:
            return []
        union = sorted(set().union(*trained.values()))
        if len(union) == 1:
            faults.append(f"task {task!r}: every row has the label {union[0]!r}; at least two labels are needed")
        else:
            faults.append(
                f"task {task!r}: each of its {len(members)} clients knows one label only; there is nothing to learn "
                "unless data.labels states the labels of the task"
            )
    return faults


def one_label_notes(clients: Iterable[ClientData | ClientCard]) -> list[str]:
    """A note about each client that has one label."""
    return [
        f"client {client.id!r}: all train rows have the label {client.labels[0]!r}, so that its head has one output "
        "and its loss is 0: it learns nothing, is not asked to train, and is left out of every mean; data.labels would "
        "give it the labels of its task"
        for client in clients
        if len(client.labels) == 1
    ]


def label_notes(client: ClientData) -> list[str]:
    """Notes about a client's labels: one of them alone in train, or some in test that are not in train."""
    trained = {row.label for row in client.train} if client.labels else set()
    notes = one_label_notes([client])
    if len(client.labels) > 1 and len(trained) == 1:
        (label,) = trained
        notes.append(f"client {client.id!r}: all train rows have the label {client.labels[label]!r}")
    unseen = [row.label for row in client.test if trained and row.label not in trained]
    if unseen:
        names = ", ".join(repr(client.labels[label]) for label in sorted(set(unseen)))
        rows = f"{counted(len(unseen), 'test row')} {'has a label' if len(unseen) == 1 else 'have labels'}"
        notes.append(f"client {client.id!r}: {rows} that none of its train rows has: {names}")
    return notes
