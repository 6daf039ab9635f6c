"""Federations: clients, each with its own labels and rows. Every data source returns one."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedlease.config.tables import RowKind
from fedlease.core.names import ClientId
from fedlease.core.serialisable import serialisable

__all__ = [
    "NOTHING_TO_LEARN",
    "NO_TEST_ROWS",
    "ONE_VALUE",
    "UNSCALED",
    "VALUE",
    "ClientCard",
    "ClientData",
    "Federation",
    "Row",
    "Scale",
    "why_nothing",
]

Scale = tuple[float, float]
"""Mean and standard deviation of a client's numbers."""
UNSCALED: Scale = (0.0, 1.0)
VALUE = ("value",)
"""The labels of a client whose rows have numbers: its head has one output."""

NOTHING_TO_LEARN = "it cannot learn: with one label its head has one output, and its loss is 0"
ONE_VALUE = "it cannot learn: all its train rows have one value, whatever their texts"
NO_TEST_ROWS = "it has no test rows"


@dataclass(frozen=True, slots=True)
class Row:
    """One example.

    Attributes:
        text: never empty; for generation the last message of the user.
        text_pair: second text of a sentence-pair task, or None.
        label: index of the class into the client's ``labels``; 0 in rows whose target is not one class.
        response: the answer that a model should generate, never empty; None for other tasks or if it is not known.
        turns: (role, content) of the messages before ``text``, oldest first; roles are system, user, assistant and
            tool.
        role: role of ``text``: ``user``, or ``tool`` for the result of a tool that the assistant called.
        place: file and line it was read from, for messages; None if it comes from no file.
        marks: ascending indices into the client's ``labels`` of a row with any number of labels; None for other tasks.
        value: the number that a model should predict; None for other tasks.
    """

    text: str
    text_pair: str | None
    label: int
    response: str | None = None
    turns: tuple[tuple[str, str], ...] = ()
    role: str = "user"
    place: tuple[Path, int] | None = field(default=None, compare=False)
    marks: tuple[int, ...] | None = None
    value: float | None = None

    @property
    def kinds(self) -> tuple[int, ...]:
        """The strata of the row in stratified splits: its label, or each of its labels, or -1 for no label."""
        return (self.label,) if self.marks is None else self.marks or (-1,)

    @property
    def question(self) -> tuple[object, ...]:
        """The model's input; a test row with the question of a train row is a leak."""
        return self.turns, self.role, self.text, self.text_pair

    @property
    def content(self) -> tuple[object, ...]:
        """Question and response; rows with the same content are duplicates, whatever their labels."""
        return *self.question, self.response


@dataclass(frozen=True)
class ClientData:
    """One client's rows; they never leave the client.

    Attributes:
        id: from the data (folder or column), never from a transport.
        task: what the rows are about, for per-task scores; ``"default"`` if not stated.
        labels: label names, which ``Row.label`` and ``Row.marks`` index; :data:`VALUE` if rows have numbers, empty for
            generation.
        valid: rows on which choices are made (learning rate, epochs); empty if ``data.valid_fraction`` is 0.
        kind: what the targets of the rows are.
    """

    id: ClientId
    task: str
    labels: tuple[str, ...]
    train: tuple[Row, ...]
    valid: tuple[Row, ...]
    test: tuple[Row, ...]
    kind: RowKind = "labels"

    @property
    def weight(self) -> int:
        """The client's weight in means, see :attr:`ClientCard.weight`."""
        return _weight(self, len(self.train))

    @cached_property
    def scale(self) -> Scale | None:
        """Mean and standard deviation of the numbers of its train rows; None if rows have none.

        A client learns (number - mean) / deviation, so that units and sizes of numbers may differ between clients.
        """
        values = [row.value for row in self.train if row.value is not None]
        if self.kind != "values" or not values:
            return None
        return float(np.mean(values)), 0.0 if min(values) == max(values) else float(np.std(values))

    @property
    def splits(self) -> dict[str, tuple[Row, ...]]:
        """``train``, ``valid`` and ``test`` -> rows."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

    @property
    def by_label(self) -> dict[str, tuple[int, int]]:
        """Label -> numbers of train and test rows, in the order of ``labels``; empty if rows have no labels."""
        if self.kind == "values":
            return {}
        train, test = (Counter(kind for row in rows for kind in row.kinds) for rows in (self.train, self.test))
        return {label: (train[index], test[index]) for index, label in enumerate(self.labels)}

    def truth(self, row: Row) -> str | list[str] | float | None:
        """The target of a row: a label, a list of labels, or a number; None for generation."""
        if self.kind == "values":
            return row.value
        return self.named(row.label if row.marks is None else row.marks) if self.labels else None

    def named(self, prediction: Any) -> Any:
        """A prediction with label names instead of indices."""
        if self.kind == "label sets":
            return [self.labels[mark] for mark in prediction]
        return self.labels[prediction] if self.kind == "labels" and self.labels else prediction

    def card(self) -> "ClientCard":
        """The client's public description."""
        pairs, mark = any(row.text_pair is not None for row in self.train), Federation.of([self]).fingerprint()
        rows = len(self.train), len(self.valid), len(self.test)
        return ClientCard(self.id, self.task, self.labels, pairs, *rows, mark, self.kind, self.scale)


@serialisable
@dataclass(frozen=True)
class ClientCard:
    """The public description of a client: id, task and labels as in :class:`ClientData`, and the numbers of its rows.

    Attributes:
        pairs: whether rows are pairs of texts.
        fingerprint: SHA-256 over all rows.
        scale: see :attr:`ClientData.scale`.
        key: fingerprint of the key that the client has proved to have; empty if the run is on one machine.
    """

    id: ClientId
    task: str
    labels: tuple[str, ...]
    pairs: bool
    train_rows: int
    valid_rows: int
    test_rows: int
    fingerprint: str
    kind: RowKind = "labels"
    scale: Scale | None = None
    key: str = ""

    @property
    def weight(self) -> int:
        """The client's weight in means: its number of train rows, or 0 if :func:`why_nothing` gives a reason."""
        return _weight(self, self.train_rows)


def why_nothing(client: ClientData | ClientCard) -> str:
    """The reason why a client has nothing to learn; empty if it has something.

    With one label a head has one output, whose probability is 1, so every gradient is 0. If all numbers are equal,
    texts explain nothing.
    """
    if client.kind == "values":
        return ONE_VALUE if client.scale is not None and not client.scale[1] else ""
    return NOTHING_TO_LEARN if client.kind == "labels" and len(client.labels) == 1 else ""


def _weight(client: ClientData | ClientCard, train_rows: int) -> int:
    return 0 if why_nothing(client) else train_rows


@dataclass(frozen=True)
class Federation:
    """All clients of a run, in sorted order of their ids.

    Attributes:
        warnings: plain sentences about what is unusual in the data.
        skipped: id -> reason, of clients that were left out.
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
        """Builds a federation; clients may be in any order."""
        ordered = sorted(clients, key=lambda client: client.id)
        return cls({client.id: client for client in ordered}, tuple(warnings), dict(skipped or {}))

    def fingerprint(self) -> str:
        """SHA-256 over every id, task, label list and row, with its answer and turns."""
        digest = hashlib.sha256()
        for client in self:
            for part in (client.id, client.task, *client.labels):
                digest.update(f"{part}\x1f".encode())
            for name, rows in client.splits.items():
                digest.update(f"\x1d{name}\x1d".encode())
                for row in rows:
                    role = [row.role] if row.role != "user" else []
                    # Nothing is added for a row with only a label, whatever targets other tasks have.
                    answered = row.response is not None or row.turns
                    answer = f"\x1f{json.dumps([row.response, row.turns, *role])}" if answered else ""
                    if row.marks is not None or row.value is not None:
                        answer += f"\x1e{json.dumps([row.marks, row.value])}"
                    digest.update(f"{row.text}\x1f{row.text_pair}\x1f{row.label}{answer}\x1e".encode())
        return digest.hexdigest()
