"""Rows that stand in two places: train and test, train and validation, one client and another."""

from collections.abc import Sequence

from fedlease.core.wording import counted
from fedlease.data.faults import quoted
from fedlease.data.federation import ClientData

__all__ = ["overlaps"]

WORDS = {"train": "train", "valid": "validation", "test": "test"}
PAIRS = (("test", "train"), ("test", "valid"), ("valid", "train"))
"""The rows of the first are scored or chosen on, and must be none of the second."""


def overlaps(clients: Sequence[ClientData]) -> list[str]:
    """One sentence per pair of places within a client, and per pair of splits over clients.

    Rows of one question are the same row, whatever their labels or answers.
    """
    return [note for client in clients for note in _within(client)] + _shared(clients)


def _within(client: ClientData) -> list[str]:
    notes = []
    for scored, other in PAIRS:
        known = {row.question for row in client.splits[other]}
        count = sum(row.question in known for row in client.splits[scored])
        if count:
            rows = counted(count, f"{WORDS[scored]} row")
            notes.append(f"client {client.id!r}: {rows} {_also(count, other)}")
    return notes


def _shared(clients: Sequence[ClientData]) -> list[str]:
    """Rows of one client that another one has too."""
    places: dict[tuple[object, ...], dict[str, set[str]]] = {}
    for client in clients:
        for split, rows in client.splits.items():
            for row in rows:
                places.setdefault(row.question, {}).setdefault(client.id, set()).add(split)
    shared = [holders for holders in places.values() if len(holders) > 1]
    notes = []
    for split, other in (*PAIRS, *((split, split) for split in WORDS)):
        count, who = 0, set[str]()
        for holders in shared:
            ones = {client for client, splits in holders.items() if split in splits}
            others = {client for client, splits in holders.items() if other in splits}
            # two clients, of whom one has it here and the other there
            if ones and others and len(ones | others) > 1:
                count += 1
                who |= ones | others
        if count:
            ends = "with two clients or more" if split == other else f"of a client {_also(count, other)} of another"
            notes.append(f"{counted(count, f'{WORDS[split]} row')} {ends}: {quoted(sorted(who))}")
    return notes


def _also(count: int, split: str) -> str:
    return f"is also a {WORDS[split]} row" if count == 1 else f"are also {WORDS[split]} rows"
