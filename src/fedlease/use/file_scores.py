"""How predictions for a file do, where the file has the labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlease.core.confusion import cells_of, class_metrics, confusion_matrix
from fedlease.core.names import name_of
from fedlease.data.labels import canonical
from fedlease.data.reading.rows import Table
from fedlease.storage.class_scores import ClassScores
from fedlease.use.open_run import KnownClient, OpenRun

__all__ = ["FileScores", "score_file"]


@dataclass(frozen=True)
class FileScores:
    """Scores of a client's model on the rows of a file.

    Attributes:
        client: whose model.
        metric: the run's headline.
        rows: in the file.
        scored: rows that have a label.
        unknown: labels of rows that the client's model does not know; such a row counts as wrong.
        metrics: name -> value over the scored rows.
        classes: scores by label, the unknown ones last.
    """

    client: str
    metric: str
    rows: int
    scored: int
    unknown: tuple[str, ...]
    metrics: Mapping[str, float]
    classes: ClassScores

    @property
    def content(self) -> dict[str, Any]:
        """The JSON form."""
        plain = {name: getattr(self, name) for name in ("client", "metric", "rows", "scored")}
        return {**plain, "unknown": list(self.unknown), **self.metrics, "classes": self.classes.content}


def score_file(
    run: OpenRun, known: KnownClient, table: Table, predictions: Sequence[Mapping[str, Any]]
) -> FileScores | None:
    """Compares predictions with the label column; None without labels to compare with.

    Args:
        run: opened run folder.
        known: the client whose model predicted.
        table: of the file.
        predictions: one per row of the table.
    """
    column = run.settings.data.columns.label
    guesses = [row.get("prediction") for row in predictions]
    if not known.labels or not {*guesses} <= {*known.labels} or column not in table.columns:
        return None
    truths = [_label(record.values.get(column), table, known.labels) for record in table.records]
    pairs = [(truth, guess) for truth, guess in zip(truths, guesses, strict=True) if truth is not None]
    if not pairs:
        return None
    unknown = sorted({truth for truth, _ in pairs} - {*known.labels})
    labels = (*known.labels, *unknown)
    number = {label: index for index, label in enumerate(labels)}
    cells = cells_of([number[truth] for truth, _ in pairs], [number[str(guess)] for _, guess in pairs])
    metrics = class_metrics(confusion_matrix(cells, len(labels)))
    headline = run.task.metric if run.task.metric in metrics else "accuracy"
    classes = ClassScores.of(cells, labels)
    return FileScores(known.id, headline, len(truths), len(pairs), tuple(unknown), metrics, classes)


def _label(value: object, table: Table, labels: Sequence[str]) -> str | None:
    """The label in a cell, as the client's labels are written where it is one of them; None for an empty cell."""
    name = name_of(value, table.typed)
    if name is None:
        return None
    forms = (name, canonical(name), canonical(name, typed=False))
    return next((form for form in forms if form in labels), canonical(name))
