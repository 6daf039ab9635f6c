"""Rows that stand in two places: train and test, train and validation, one client and another."""

from collections.abc import Iterator, Sequence

from fedlease.core.wording import counted
from fedlease.data.faults import quoted
from fedlease.data.federation import ClientData, Row

__all__ = ["overlaps"]

SPLITS = ("train", "valid", "test")
WORDS = {"train": "train", "valid": "validation", "test": "test"}
PAIRS = (("test", "train"), ("test", "valid"), ("valid", "train"))
"""The rows of the first are scored or chosen on, and must be none of the second."""

Question = tuple[object, ...]
"""What a model is shown; rows of one question are the same row, whatever their labels or answers."""


def overlaps(clients: Sequence[ClientData]) -> list[str]:
    """One sentence per pair of places within a client, and per pair of splits over clients."""
    return [note for client in clients for note in _within(client)] + _shared(clients)


def _within(client: ClientData) -> list[str]:
    """Rows of one client that stand in two of its splits, whatever their answers."""
    rows = {"train": client.train, "valid": client.valid, "test": client.test}
    known = {split: {row.question for row in rows[split]} for split in SPLITS}
    notes = []
    for scored, other in PAIRS:
        count = sum(row.question in known[other] for row in rows[scored])
        if count:
            are = f"is also a {WORDS[other]} row" if count == 1 else f"are also {WORDS[other]} rows"
            notes.append(f"client {client.id!r}: {counted(count, f'{WORDS[scored]} row')} {are}")
    return notes


def _shared(clients: Sequence[ClientData]) -> list[str]:
    """Rows of one client that another one has too."""
    places: dict[Question, dict[str, set[str]]] = {}
    for client in clients:
        for split, row in _rows(client):
            places.setdefault(row.question, {}).setdefault(client.id, set()).add(split)
    shared = [holders for holders in places.values() if len(holders) > 1]
    notes = []
    for split, other in (*PAIRS, *((split, split) for split in SPLITS)):
        count, who = 0, set[str]()
        for holders in shared:
            ones = {client for client, splits in holders.items() if split in splits}
            others = {client for client, splits in holders.items() if other in splits}
            # two clients, of whom one has it here and the other there
            if ones and others and len(ones | others) > 1:
                count += 1
                who |= ones | others
        if count:
            notes.append(f"{_sentence(count, split, other)}: {quoted(sorted(who))}")
    return notes


def _sentence(count: int, split: str, other: str) -> str:
    row = counted(count, f"{WORDS[split]} row")
    if split == other:
        return f"{row} with two clients or more"
    are = f"is also a {WORDS[other]} row" if count == 1 else f"are also {WORDS[other]} rows"
    return f"{row} of a client {are} of another"


def _rows(client: ClientData) -> Iterator[tuple[str, Row]]:
    for split, rows in (("train", client.train), ("valid", client.valid), ("test", client.test)):
        for row in rows:
            yield split, row
