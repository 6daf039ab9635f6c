"""Confusion matrices, and the scores that follow from their counts."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cells", "PerClass", "cells_of", "class_metrics", "confusion_matrix", "per_class", "row_shares"]

Cells = Sequence[Sequence[int]]
"""(true class, predicted class, number of rows) for every pair of classes that occurs, sorted."""


@dataclass(frozen=True)
class PerClass:
    """Scores of every class, in the order of the classes; None where a score is undefined.

    Attributes:
        support: rows of the class.
        predicted: rows that are predicted to be of the class.
        precision: share of ``predicted`` that is correct; None where the class is never predicted.
        recall: share of ``support`` that is correct; None where no row is of the class.
        f1: 2 x correct / (support + predicted); None where both are 0.
    """

    support: tuple[int, ...]
    predicted: tuple[int, ...]
    precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]
    f1: tuple[float | None, ...]


def cells_of(truth: Sequence[int], guesses: Sequence[int]) -> list[list[int]]:
    """Counts the pairs of true and predicted class, as :data:`Cells`."""
    counts = Counter(zip(truth, guesses, strict=True))
    return [[true, guess, rows] for (true, guess), rows in sorted(counts.items())]


def confusion_matrix(cells: Cells, classes: int) -> NDArray[np.int64]:
    """(classes, classes): row t, column p counts the rows of class t that were predicted to be of class p."""
    counts = np.zeros((classes, classes), np.int64)
    for true, guess, rows in cells:
        counts[true, guess] = rows
    return counts


def class_metrics(counts: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, macro F1 over the classes that occur, and Matthews correlation of a confusion matrix.

    The correlation is 0 where all rows are of one class or are predicted to be. scikit-learn has all three scores, but
    checking its arguments takes longer than training on the rows of a small client.
    """
    right, guessed, true = counts.diagonal(), counts.sum(0), counts.sum(1)
    return _metrics(right, guessed, true, guessed + true > 0)


def _metrics(
    right: NDArray[np.int64], guessed: NDArray[np.int64], true: NDArray[np.int64], occurs: NDArray[np.bool_]
) -> dict[str, float]:
    rows = int(true.sum())
    spread = float(rows**2 - guessed @ guessed) * float(rows**2 - true @ true)
    both = np.maximum((guessed + true)[occurs], 1)
    return {
        "accuracy": float(right.sum() / rows),
        "macro_f1": float((2 * right[occurs] / both).mean()),
        "mcc": float(rows * right.sum() - guessed @ true) / math.sqrt(spread) if spread else 0.0,
    }


def row_shares(truth: Sequence[int], guesses: Sequence[int], classes: int, metric: str) -> list[float]:
    """One number per row whose mean is a metric that is itself no mean over rows.

    With T the metric and T_i the metric without row i, over the same classes, row i gets
    T + (n - 1) (mean of T_j - T_i), the jackknife's pseudo-value, centred. The standard error of the mean of these
    numbers is the jackknife's standard error of the metric. The same holds for the difference between two methods.

    Args:
        truth: classes, (n,).
        guesses: predicted classes of the same rows.
        classes: number of classes.
        metric: ``macro_f1``, ``mcc`` or ``accuracy``, for which the numbers are 1 for a correct row, else 0.
    """
    cells = cells_of(truth, guesses)
    counts = confusion_matrix(cells, classes)
    whole, rows = class_metrics(counts)[metric], len(truth)
    if rows == 1:
        return [whole]
    right, guessed, true = counts.diagonal().copy(), counts.sum(0), counts.sum(1)
    occurs = guessed + true > 0
    one = np.eye(classes, dtype=np.int64)
    # Leaving out any row of a cell gives the same metric.
    without = {
        (t, p): _metrics(right - one[t] * (t == p), guessed - one[p], true - one[t], occurs)[metric]
        for t, p, _ in cells
    }
    middle = sum(number * without[t, p] for t, p, number in cells) / rows
    return [whole + (rows - 1) * (middle - without[t, p]) for t, p in zip(truth, guesses, strict=True)]


def per_class(counts: NDArray[np.int64]) -> PerClass:
    """Scores of every class of a confusion matrix."""
    right, predicted, support = (part.tolist() for part in (counts.diagonal(), counts.sum(0), counts.sum(1)))

    def shares(wholes: Sequence[int], factor: int = 1) -> tuple[float | None, ...]:
        return tuple(factor * hit / whole if whole else None for hit, whole in zip(right, wholes, strict=True))

    both = [rows + guesses for rows, guesses in zip(support, predicted, strict=True)]
    return PerClass(tuple(support), tuple(predicted), shares(predicted), shares(support), shares(both, 2))
