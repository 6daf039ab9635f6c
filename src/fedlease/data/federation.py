"""What every data source gives: clients, each with its own labels and rows."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedlease.core.names import ClientId
from fedlease.core.serialisable import serialisable

__all__ = ["NOTHING_TO_LEARN", "NO_TEST_ROWS", "ClientCard", "ClientData", "Federation", "Row"]

NOTHING_TO_LEARN = "it cannot learn: with one label its head has one output, and its loss is 0"
NO_TEST_ROWS = "it has no test rows"


@dataclass(frozen=True, slots=True)
class Row:
    """One example.

    Attributes:
        text: never empty; for generation the last message of the user.
        text_pair: second text of a sentence-pair task, or None.
        label: index into the client's ``labels``; 0 for generation.
        response: the answer that a model should give, never empty; None for classification and where it is not known.
        turns: (role, content) of the messages before ``text``, oldest first; roles are system, user, assistant and
            tool.
        role: who wrote ``text``: the user, or a tool that the assistant called.
        place: file and line it was read from, for messages; None if it comes from no file.
    """

    text: str
    text_pair: str | None
    label: int
    response: str | None = None
    turns: tuple[tuple[str, str], ...] = ()
    role: str = "user"
    place: tuple[Path, int] | None = field(default=None, compare=False)

    @property
    def question(self) -> tuple[object, ...]:
        """Everything that a model is shown; a test row with the question of a train row is a leak."""
        return self.turns, self.role, self.text, self.text_pair

    @property
    def content(self) -> tuple[object, ...]:
        """Question and answer; rows of one content are duplicates, whatever their labels."""
        return *self.question, self.response


@dataclass(frozen=True)
class ClientData:
    """One client's rows; they never leave the client.

    Attributes:
        id: from the data (folder or column), never from a transport.
        task: what the rows are about, for per-task scores; unknown tasks are ``"default"``.
        labels: label names; ``Row.label`` indexes them. Empty for generation.
        valid: rows for choices (learning rate, epochs); empty when ``data.valid_fraction`` is 0.
    """

    id: ClientId
    task: str
    labels: tuple[str, ...]
    train: tuple[Row, ...]
    valid: tuple[Row, ...]
    test: tuple[Row, ...]

    @property
    def weight(self) -> int:
        """Train rows that count in means, see :attr:`ClientCard.weight`."""
        return _weight(self.labels, len(self.train))

    @property
    def splits(self) -> dict[str, tuple[Row, ...]]:
        """``train``, ``valid`` and ``test`` -> rows."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

    @property
    def by_label(self) -> dict[str, tuple[int, int]]:
        """Label -> train and test rows, in the order of the labels; empty for generation."""
        train, test = (Counter(row.label for row in rows) for rows in (self.train, self.test))
        return {label: (train[index], test[index]) for index, label in enumerate(self.labels)}

    def card(self) -> "ClientCard":
        """What others may know of it."""
        pairs, mark = any(row.text_pair is not None for row in self.train), Federation.of([self]).fingerprint()
        rows = len(self.train), len(self.valid), len(self.test)
        return ClientCard(self.id, self.task, self.labels, pairs, *rows, mark)


@serialisable
@dataclass(frozen=True)
class ClientCard:
    """What others know of a client: its id, task and labels as in :class:`ClientData`, and the numbers of its rows.

    Attributes:
        pairs: whether rows are pairs of texts.
        fingerprint: SHA-256 over all rows.
    """

    id: ClientId
    task: str
    labels: tuple[str, ...]
    pairs: bool
    train_rows: int
    valid_rows: int
    test_rows: int
    fingerprint: str

    @property
    def weight(self) -> int:
        """Train rows that count in means.

        All, or none of one label: its head has one output, whose probability is 1, so no gradient reaches anything.
        """
        return _weight(self.labels, self.train_rows)


def _weight(labels: Sequence[str], train_rows: int) -> int:
    return 0 if len(labels) == 1 else train_rows


@dataclass(frozen=True)
class Federation:
    """All clients of a run, in sorted order of their ids.

    Attributes:
        warnings: plain sentences about what is unusual in the data.
        skipped: id -> why, of clients that were left out because their rows cannot be used.
    """

    clients: Mapping[ClientId, ClientData]
    warnings: tuple[str, ...] = ()
    skipped: Mapping[ClientId, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[ClientData]:
        return iter(self.clients.values())

    def __len__(self) -> int:
        return len(self.clients)

    @classmethod
    def of(
        cls, clients: Iterable[ClientData], warnings: Iterable[str] = (), skipped: Mapping[ClientId, str] | None = None
    ) -> "Federation":
        """Builds a federation with its clients in sorted order."""
        ordered = sorted(clients, key=lambda client: client.id)
        return cls({client.id: client for client in ordered}, tuple(warnings), dict(skipped or {}))

    def fingerprint(self) -> str:
        """SHA-256 over every id, task, label list and row (with its answer and turns): changes when any does."""
        digest = hashlib.sha256()
        for client in self:
            for part in (client.id, client.task, *client.labels):
                digest.update(f"{part}\x1f".encode())
            for name, rows in client.splits.items():
                digest.update(f"\x1d{name}\x1d".encode())
                for row in rows:
                    role = [row.role] if row.role != "user" else []
                    # A label alone adds nothing, so that a fingerprint does not depend on what other rows may have.
                    answered = row.response is not None or row.turns
                    answer = f"\x1f{json.dumps([row.response, row.turns, *role])}" if answered else ""
                    digest.update(f"{row.text}\x1f{row.text_pair}\x1f{row.label}{answer}\x1e".encode())
        return digest.hexdigest()
