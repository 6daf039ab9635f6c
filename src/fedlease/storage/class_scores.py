"""``classes`` in ``summary.json``: the confusion matrix of every client and what follows from it, by label."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

from pydantic import Field

from fedlease.core.confusion import Cells, confusion_matrix, per_class
from fedlease.core.label_sets import is_of_sets
from fedlease.core.names import ClientId
from fedlease.core.wording import listed
from fedlease.storage.documents import Content, Count, Finite

__all__ = ["MOST_CLASSES", "ClassScores", "Unpredicted", "never_predicted", "never_predicted_note"]

MOST_CLASSES = 100
"""Number of labels up to which a client's confusion matrix is stored; nobody reads larger ones."""
PLACES = 6


class ClassScores(Content):
    """One client's scores by label; every list is in the order of ``labels``.

    Attributes:
        labels: the client's label list.
        support: test rows of each label.
        predicted: test rows that were predicted to have it.
        precision: share of ``predicted`` that is right; None where it is never predicted.
        recall: share of ``support`` that is found; None where no test row has the label.
        f1: 2 x right / (support + predicted); None where both are 0. Macro F1 is the mean of those that are not None.
        confusion: a row per true label, in it the test rows by predicted label; empty for more than 100 labels, and
            where rows have any number of labels.
        test_rows: where that is not the sum of ``support``.
    """

    labels: list[str]
    support: list[Count]
    predicted: list[Count]
    precision: list[Finite | None]
    recall: list[Finite | None]
    f1: list[Finite | None]
    confusion: list[list[Count]] = Field(default_factory=list)
    test_rows: Count | None = None

    @classmethod
    def of(cls, cells: Cells, labels: tuple[str, ...]) -> Self:
        """Derives the scores from (true, predicted, rows) of the pairs of labels that occur, or of
        :func:`fedlease.core.label_sets.cells_of_sets`.
        """
        sets = is_of_sets(cells, len(labels))
        counts = confusion_matrix(cells, len(labels) + sets)
        found = per_class(counts)

        def rounded(values: tuple[float | None, ...]) -> list[float | None]:
            return [None if value is None else round(value, PLACES) for value in values[: len(labels)]]

        return cls(
            labels=list(labels),
            support=list(found.support[: len(labels)]),
            predicted=list(found.predicted[: len(labels)]),
            precision=rounded(found.precision),
            recall=rounded(found.recall),
            f1=rounded(found.f1),
            confusion=counts.tolist() if len(labels) <= MOST_CLASSES and not sets else [],
            **({"test_rows": int(counts[-1, -1])} if sets else {}),
        )

    def rows(self) -> list[dict[str, Any]]:
        """The same scores, as one dictionary per label."""
        names = ("label", "support", "predicted", "precision", "recall", "f1")
        columns = (self.labels, self.support, self.predicted, self.precision, self.recall, self.f1)
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


class Unpredicted(NamedTuple):
    """A label of some of a client's test rows that is predicted for none.

    Attributes:
        client: whose.
        label: its name.
        support: test rows that have it.
        test_rows: all test rows of the client.
    """

    client: ClientId
    label: str
    support: int
    test_rows: int


def never_predicted(classes: Mapping[ClientId, ClassScores]) -> Iterator[Unpredicted]:
    """Labels that are never predicted, sorted by client, then in the order of its labels."""
    for client, found in sorted(classes.items()):
        for label, support, predicted in zip(found.labels, found.support, found.predicted, strict=True):
            if support and not predicted:
                rows = sum(found.support) if found.test_rows is None else found.test_rows
                yield Unpredicted(client, label, support, rows)


def never_predicted_note(classes: Mapping[ClientId, ClassScores]) -> str:
    """One sentence that names them with client and count; empty if every label with test rows is predicted."""
    found = [
        f"{label!r} by client {client!r} ({support} of its {rows} test rows)"
        for client, label, support, rows in never_predicted(classes)
    ]
    return f"never predicted, although test rows have it: {listed(found)}" if found else ""
