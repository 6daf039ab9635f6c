"""Tokenised rows with any number of labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedlease.tasks.encoded import Encoded, Packed

__all__ = ["EncodedSets", "Flags"]

Flags = NDArray[np.bool_]
"""(rows, labels): whether a row has a label."""


@dataclass(frozen=True, eq=False)
class EncodedSets(Encoded):
    """Tokenised rows with any number of labels; ``labels`` numbers the different sets.

    Attributes:
        marks: indices of each row's labels.
        clients: number of rows of each client, in order, if there are several; empty for one client.
    """

    marks: Packed
    clients: tuple[int, ...] = ()

    def take(self, rows: Sequence[int]) -> Self:
        """Some rows, in the given order."""
        return replace(super().take(rows), marks=self.marks.take(rows), clients=())

    def followed_by(self, others: Sequence[Encoded]) -> Self:
        """The rows of several clients, one client after another."""
        parts: list[EncodedSets] = [self, *(part for part in others if isinstance(part, EncodedSets))]
        marks = Packed.joined([part.marks for part in parts])
        return replace(super().followed_by(others), marks=marks, clients=tuple(map(len, parts)))

    def flags(self, rows: Sequence[int], labels: int) -> Flags:
        """Whether each of some rows has each label, (rows, labels)."""
        found = np.zeros((len(rows), labels), bool)
        for line, row in enumerate(rows):
            found[line, self.marks[row]] = True
        return found

    def counts(self, labels: int) -> NDArray[np.int64]:
        """Number of rows with each label, (labels,)."""
        return np.bincount(self.marks.tokens, minlength=labels)

    @cached_property
    def of_clients(self) -> tuple[NDArray[np.int64], list["EncodedSets"]]:
        """The client of each row, (rows,), and every client's rows, without their tokens."""
        ends = np.cumsum(self.clients or (len(self),)).tolist()
        spans = [range(end - size, end) for end, size in zip(ends, self.clients or (len(self),), strict=True)]
        bare = replace(self, columns={}, clients=())
        return np.repeat(np.arange(len(spans)), [len(span) for span in spans]), [bare.take(span) for span in spans]
