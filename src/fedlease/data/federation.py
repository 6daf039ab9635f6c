"""Federations, which every data source gives: clients, each with its own labels and rows."""

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
        label: index into the client's ``labels``; 0 where it is no class that a model should give.
        response: the answer that a model should give, never empty; None for classification and where it is not known.
        turns: (role, content) of the messages before ``text``, oldest first; roles are system, user, assistant and
            tool.
        role: who wrote ``text``: the user, or a tool that the assistant called.
        place: file and line it was read from, for messages; None if it comes from no file.
        marks: indices into the client's ``labels``, ascending, of a row that has any number of labels; None for others.
        value: the number that a model should give; None where it should give something else.
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
        """The strata of a row when rows are divided evenly: its label, or each of its labels; -1 for no label."""
        return (self.label,) if self.marks is None else self.marks or (-1,)

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
        labels: label names; ``Row.label`` and ``Row.marks`` index them. :data:`VALUE` where rows have numbers, empty
            for generation.
        valid: rows for choices (learning rate, epochs); empty when ``data.valid_fraction`` is 0.
        kind: what stands beside the texts.
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
        """Train rows that count in means, see :attr:`ClientCard.weight`."""
        return _weight(self, len(self.train))

    @cached_property
    def scale(self) -> Scale | None:
        """Mean and standard deviation of the numbers of its train rows; None if rows have none.

        A client learns (number - mean) / deviation, so that clients whose numbers have other units or sizes learn
        alike.
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
        """Label -> train and test rows, in the order of the labels; empty where rows have none."""
        if self.kind == "values":
            return {}
        train, test = (Counter(kind for row in rows for kind in row.kinds) for rows in (self.train, self.test))
        return {label: (train[index], test[index]) for index, label in enumerate(self.labels)}

    def truth(self, row: Row) -> str | list[str] | float | None:
        """The value that a model should predict for a row: a label, labels, or a number; None for a text."""
        if self.kind == "values":
            return row.value
        return self.named(row.label if row.marks is None else row.marks) if self.labels else None

    def named(self, prediction: Any) -> Any:
        """A prediction with label names instead of indices."""
        if self.kind == "label sets":
            return [self.labels[mark] for mark in prediction]
        return self.labels[prediction] if self.kind == "labels" and self.labels else prediction

    def card(self) -> "ClientCard":
        """The card of this client, which others may see."""
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
        key: fingerprint of the key that the client has proved to have; empty where all is one machine.
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
        """Train rows that count in means: all, or none where :func:`why_nothing` finds nothing to learn."""
        return _weight(self, self.train_rows)


def why_nothing(client: ClientData | ClientCard) -> str:
    """Why a client has nothing to learn; empty where it has.

    With one label a head has one output, whose probability is 1, so no gradient reaches anything. With one number there
    is nothing that texts could explain.
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
                    if row.marks is not None or row.value is not None:
                        answer += f"\x1e{json.dumps([row.marks, row.value])}"
                    digest.update(f"{row.text}\x1f{row.text_pair}\x1f{row.label}{answer}\x1e".encode())
        return digest.hexdigest()
