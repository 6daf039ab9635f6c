"""Scores predictions for a file that has labels, numbers or responses."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlease.data.reading.rows import Table
from fedlease.storage.class_scores import ClassScores
from fedlease.use.open_run import KnownClient, OpenRun

__all__ = ["FileScores", "score_file"]

LARGEST = 700.0
"""Largest loss whose exponential is finite, approximately."""


@dataclass(frozen=True)
class FileScores:
    """Scores of a client's model on the rows of a file.

    Attributes:
        client: id of the client whose model is scored.
        metric: the run's headline metric.
        learnt: the run's task.
        rows: number of rows in the file.
        scored: number of rows that have a label, a number or a response.
        unknown: labels that the client's model does not know; rows with such a label count as wrong.
        metrics: name -> value over the scored rows; for generation also the mean ``loss`` per token, and its
            exponential, the ``perplexity``.
        classes: scores by label, with unknown labels last; None if rows have no labels.
    """

    client: str
    metric: str
    learnt: str
    rows: int
    scored: int
    unknown: tuple[str, ...]
    metrics: Mapping[str, float]
    classes: ClassScores | None

    @property
    def content(self) -> dict[str, Any]:
        """The JSON form."""
        plain = {name: getattr(self, name) for name in ("client", "metric", "learnt", "rows", "scored")}
        classes = {} if self.classes is None else {"classes": self.classes.content}
        return {**plain, "unknown": list(self.unknown), **self.metrics, **classes}


def score_file(
    run: OpenRun, known: KnownClient, table: Table, predictions: Sequence[Mapping[str, Any]]
) -> FileScores | None:
    """Compares predictions with the targets in a table; None if it has none.

    Args:
        run: opened run folder.
        known: the client whose model predicted.
        table: the table of the file.
        predictions: predictions, one per row of the table.
    """
    found = run.task.grade(table, run.settings.data, known.labels, predictions)
    if found is None:
        return None
    metrics = dict(found.metrics)
    if found.answered:
        run.load(known.id)
        metrics["loss"] = run.task.mean_loss(run.resident, run.encode(found.answered, known.scale), run.threads)
        metrics["perplexity"] = math.exp(min(metrics["loss"], LARGEST))
    classes = ClassScores.of(found.cells, (*known.labels, *found.unknown)) if found.cells else None
    counts = len(table.records), found.rows
    return FileScores(known.id, run.task.metric, run.settings.task, *counts, found.unknown, metrics, classes)
