"""Finds rows in two places: in two splits of a client, or in two clients."""

from collections.abc import Sequence

from fedlease.core.wording import counted
from fedlease.data.faults import quoted
from fedlease.data.federation import ClientData

__all__ = ["overlaps"]

WORDS = {"train": "train", "valid": "validation", "test": "test"}
PAIRS = (("test", "train"), ("test", "valid"), ("valid", "train"))
"""Splits that should be disjoint: the first serves scores or choices."""


def overlaps(clients: Sequence[ClientData]) -> list[str]:
    """Notes of overlaps: one per pair of splits of a client, and one per pair of splits of different clients.

    Rows with the same question count as the same row, whatever their labels or answers.
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
    """Notes of rows that several clients have."""
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
            # the row must be in one split of one client and in the other split of another client
            if ones and others and len(ones | others) > 1:
                count += 1
                who |= ones | others
        if count:
            ends = "with two clients or more" if split == other else f"of a client {_also(count, other)} of another"
            notes.append(f"{counted(count, f'{WORDS[split]} row')} {ends}: {quoted(sorted(who))}")
    return notes


def _also(count: int, split: str) -> str:
    return f"is also a {WORDS[split]} row" if count == 1 else f"are also {WORDS[split]} rows"
