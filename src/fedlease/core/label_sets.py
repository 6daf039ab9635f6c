"""Scores of predicted sets of labels, computed from counts per label."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedlease.core.confusion import Cells, confusion_matrix

__all__ = ["cells_of_sets", "centred_shares", "is_of_sets", "set_metrics", "set_shares"]


def cells_of_sets(truth: NDArray[np.bool_], guesses: NDArray[np.bool_]) -> list[list[int]]:
    """Counts true and predicted labels, as :data:`~fedlease.core.confusion.Cells`.

    An extra class L, after the L labels, means "label absent": (l, l) counts the rows that have label l and are
    predicted to have it, (l, L) the rows that have it without the prediction, (L, l) the rows with the prediction
    only, and (L, L) all rows. Row and column sums are then a label's support and predictions, as in a confusion matrix.

    Args:
        truth: (rows, L), whether a row has a label.
        guesses: (rows, L), whether it is predicted.
    """
    labels = truth.shape[1]
    both, missed, wrong = (part.sum(0).tolist() for part in (truth & guesses, truth & ~guesses, ~truth & guesses))
    cells = [[label, label, both[label]] for label in range(labels)]
    cells += [[label, labels, missed[label]] for label in range(labels)]
    cells += [[labels, label, wrong[label]] for label in range(labels)]
    return sorted([cell for cell in cells if cell[2]] + [[labels, labels, len(truth)]])


def is_of_sets(cells: Cells, labels: int) -> bool:
    """Whether cells count sets of this many labels, as of :func:`cells_of_sets`, rather than classes."""
    return any(true == guess == labels for true, guess, _ in cells)


def set_metrics(cells: Cells, labels: int) -> dict[str, float]:
    """Micro F1, over all labels of all rows, and macro F1, the mean over the labels that occur.

    Both are 0 where no row has a label and none is predicted.
    """
    counts = confusion_matrix(cells, labels + 1)
    both = counts.diagonal()[:labels]
    sizes = counts[:labels].sum(1) + counts[:, :labels].sum(0)
    return {name: float(value[0]) for name, value in _f1(both[None], sizes[None]).items()}


def set_shares(truth: NDArray[np.bool_], guesses: NDArray[np.bool_], metric: str) -> list[float]:
    """One number per row whose mean is ``micro_f1`` or ``macro_f1``, see :func:`fedlease.core.confusion.row_shares`."""
    both, sizes = (truth & guesses).astype(np.int64), truth.astype(np.int64) + guesses
    whole = float(_f1(both.sum(0)[None], sizes.sum(0)[None])[metric][0])
    occurs = sizes.sum(0) > 0
    return centred_shares(whole, _f1(both.sum(0) - both, sizes.sum(0) - sizes, occurs)[metric])


def centred_shares(whole: float, without: Sequence[float] | NDArray[np.float64]) -> list[float]:
    """The jackknife's pseudo-values of a metric, centred: one number per row, whose mean is the metric.

    Args:
        whole: the metric on all rows.
        without: the metric without row i, (rows,).
    """
    left = np.asarray(without, np.float64)
    if len(left) < 2:
        return [whole] * len(left)
    shares: list[float] = (whole + (len(left) - 1) * (left.mean() - left)).tolist()
    return shares


def _f1(
    both: NDArray[np.int64], sizes: NDArray[np.int64], occurs: NDArray[np.bool_] | None = None
) -> dict[str, NDArray[np.float64]]:
    """F1 of n cases at once.

    Args:
        both: (n, labels), rows for which the label is true and predicted.
        sizes: (n, labels), rows for which it is true plus rows for which it is predicted.
        occurs: (labels,), whether a label enters the macro mean; None takes the labels that occur in the first case.
    """
    seen = sizes[0] > 0 if occurs is None else occurs
    micro = 2 * both.sum(1) / np.maximum(sizes.sum(1), 1)
    macro = (2 * both[:, seen] / np.maximum(sizes[:, seen], 1)).sum(1) / max(int(seen.sum()), 1)
    return {"micro_f1": micro, "macro_f1": macro}
