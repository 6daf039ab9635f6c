"""Means over seeds, and paired differences with a bootstrap over test rows nested in seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlease.core.seeds import derive

__all__ = ["Difference", "Spread", "paired_difference", "spread"]

RowScores = Mapping[str, NDArray[np.float64]]
"""Client -> one number per test row: 1 where it was right, or its ROUGE-1."""

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """Over seeds.

    Attributes:
        mean: plain.
        deviation: standard deviation with n - 1; None for one seed.
        values: one per seed.
    """

    mean: float
    deviation: float | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """How much one method is above another, on the same seeds, clients and rows.

    Attributes:
        mean: of the mean score over clients, averaged over seeds; in [-1, 1].
        low: lower end of the 95 % interval.
        high: upper end.
        seeds: how many.
    """

    mean: float
    low: float
    high: float
    seeds: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of at least one value."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, tuple(values))


def paired_difference(
    first: Sequence[RowScores], second: Sequence[RowScores], *, seed: int = 0, draws: int = DRAWS
) -> Difference:
    """Percentile interval of the mean difference, drawing seeds, and within a seed every client's rows.

    Rows are drawn within their client, since the headline is a plain mean over clients. With one seed there is nothing
    to draw between seeds, and the interval speaks of that seed alone.

    Args:
        first: one per seed.
        second: the same seeds, clients and rows.
        seed: of the draws.
        draws: how many.

    Raises:
        ValueError: seeds, clients or rows do not match.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"paired results need the same seeds, received {len(first)} and {len(second)}")
    gaps = []
    for one, other in zip(first, second, strict=True):
        if one.keys() != other.keys() or any(len(one[c]) != len(other[c]) for c in one):
            raise ValueError("paired results need the same clients and test rows")
        gaps.append([one[client] - other[client] for client in sorted(one)])
    observed = [float(np.mean([gap.mean() for gap in clients])) for clients in gaps]
    rng = np.random.default_rng(derive(seed, "bootstrap"))
    picks = rng.integers(len(gaps), size=(draws, len(gaps)))
    totals = np.zeros(draws)
    for slot in range(len(gaps)):
        for number, clients in enumerate(gaps):
            chosen = np.flatnonzero(picks[:, slot] == number)
            for gap in clients:
                rows = rng.integers(len(gap), size=(len(chosen), len(gap)))
                totals[chosen] += gap[rows].mean(1) / len(clients)
    means = totals / len(gaps)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Difference(float(np.mean(observed)), float(low), float(high), len(gaps))
