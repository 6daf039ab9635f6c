"""Label lists that the settings state, and clients whose labels leave nothing to learn."""

from collections.abc import Iterable, Sequence

from fedlease.config.data import DataSettings
from fedlease.core.wording import counted
from fedlease.data.faults import Faults, quoted, shown
from fedlease.data.federation import ClientCard, ClientData
from fedlease.data.reading.labels import alike, canonical

__all__ = ["check_tasks", "label_notes", "labels_over_clients", "nothing_to_learn", "one_label_notes", "stated_labels"]


def stated_labels(settings: DataSettings, task: str) -> tuple[str, ...]:
    """The labels that ``data.labels`` gives a task; none where it does not say."""
    labels = settings.labels.get(task) if isinstance(settings.labels, dict) else settings.labels
    return tuple(dict.fromkeys(map(canonical, labels or ())))


def check_tasks(settings: DataSettings, tasks: Iterable[str], faults: Faults) -> None:
    """Notes every task that ``data.labels`` names and no client has."""
    known = sorted(set(tasks))
    for task in settings.labels if isinstance(settings.labels, dict) else ():
        if task not in known:
            faults.add(f"data.labels: no client has the task {task!r}; tasks are {', '.join(map(repr, known))}")


def nothing_to_learn(clients: Sequence[ClientData]) -> list[str]:
    """Why classification has nothing to learn from, a sentence per task; empty where some task has two labels.

    Clients of one label each can learn from one another where their heads have the outputs for it.
    """
    if not all(client.labels for client in clients):
        return []
    faults: list[str] = []
    for task, members in _by_task(clients).items():
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


def labels_over_clients(clients: Iterable[ClientData]) -> list[str]:
    """Labels that one client of a task writes in one way and another in another."""
    notes = []
    for task, members in _by_task(clients).items():
        for group in alike(label for member in members for label in member.labels):
            users = {label: [member.id for member in members if label in member.labels] for label in group}
            if max(sum(label in member.labels for label in group) for member in members) == 1:
                forms = " and ".join(f"{shown(label)} (clients {quoted(who)})" for label, who in users.items())
                notes.append(f"task {task!r}: clients write the same label in different ways: {forms}")
    return notes


def _by_task(clients: Iterable[ClientData]) -> dict[str, list[ClientData]]:
    tasks: dict[str, list[ClientData]] = {}
    for client in clients:
        tasks.setdefault(client.task, []).append(client)
    return tasks


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
