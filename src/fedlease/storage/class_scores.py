"""``classes`` in ``summary.json``: the confusion matrix of every client, and scores by label."""

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
"""Most labels of a client for which its confusion matrix is stored, since larger ones cannot be read."""
PLACES = 6


class ClassScores(Content):
    """One client's scores by label; every list is in the order of ``labels``.

    Attributes:
        labels: the client's label list.
        support: number of test rows with the label.
        predicted: number of test rows for which the label was predicted.
        precision: share of ``predicted`` that is right; None if the label is never predicted.
        recall: share of ``support`` that is predicted; None if no test row has the label.
        f1: 2 x right / (support + predicted); None if both are 0. Macro F1 is the mean of values other than None.
        confusion: a row per true label, with the number of test rows per predicted label; empty for more than 100
            labels, and if rows have any number of labels.
        test_rows: number of test rows, if it is not the sum of ``support``.
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
        """Derives the scores from cells, which are (true, predicted, rows) for each pair of labels that occurs.

        For sets of labels, they come from :func:`fedlease.core.label_sets.cells_of_sets`.
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
    """A label in a client's test rows that is never predicted.

    Attributes:
        client: id of the client.
        label: the label's name.
        support: number of test rows with the label.
        test_rows: number of all test rows of the client.
    """

    client: ClientId
    label: str
    support: int
    test_rows: int


def never_predicted(classes: Mapping[ClientId, ClassScores]) -> Iterator[Unpredicted]:
    """Labels that are never predicted, sorted by client, and in the order of its labels."""
    for client, found in sorted(classes.items()):
        for label, support, predicted in zip(found.labels, found.support, found.predicted, strict=True):
            if support and not predicted:
                rows = sum(found.support) if found.test_rows is None else found.test_rows
                yield Unpredicted(client, label, support, rows)


def never_predicted_note(classes: Mapping[ClientId, ClassScores]) -> str:
    """A sentence that names the labels that are never predicted, with client and count; empty if there are none."""
    found = [
        f"{label!r} by client {client!r} ({support} of its {rows} test rows)"
        for client, label, support, rows in never_predicted(classes)
    ]
    return f"never predicted, although test rows have it: {listed(found)}" if found else ""
