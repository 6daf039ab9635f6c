"""Means over seeds, and paired differences with a bootstrap over test rows in seeds."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlease.core.seeds import derive

__all__ = ["Difference", "RowKeys", "RowScores", "Spread", "paired_difference", "spread"]

RowScores = Mapping[str, NDArray[np.float64]]
"""Client -> one number per test row: 1 where it was right, or its ROUGE-1."""

RowKeys = Mapping[str, Sequence[Hashable]]
"""Client -> what tells a test row from others."""

DRAWS = 2000
CHUNK = 100
"""Draws at a time, which bounds the memory for their weights."""

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
    first: Sequence[RowScores],
    second: Sequence[RowScores],
    rows: Sequence[RowKeys] | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Difference:
    """Percentile interval of the mean difference, drawing seeds, and within a seed weights of every client's rows.

    Rows are weighted within their client, since the headline is a plain mean over clients (Bayesian bootstrap: weights
    are exponential). A row that occurs in several seeds, as all do where test files are given, has one weight in all
    of them: what it adds by chance is not averaged out by more seeds. With one seed there is nothing to draw between
    seeds, and the interval speaks of that seed alone.

    Args:
        first: one per seed.
        second: the same seeds, clients and rows.
        rows: what tells every row from others, in the order of the scores; None: no row occurs in two seeds.
        seed: of the draws.
        draws: how many.

    Raises:
        ValueError: seeds, clients or rows do not match.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"paired results need the same seeds, received {len(first)} and {len(second)}")
    gaps = [_gaps(one, other) for one, other in zip(first, second, strict=True)]
    numbers = [{client: np.full(len(gap), -1) for client, gap in clients.items()} for clients in gaps]
    if rows is not None:
        numbers = _of_several_seeds(rows)
        if [{c: len(n) for c, n in found.items()} for found in numbers] != [
            {c: len(g) for c, g in clients.items()} for clients in gaps
        ]:
            raise ValueError("rows must name every score's row, in the same seeds and clients")
    observed = [float(np.mean([gap.mean() for gap in clients.values()])) for clients in gaps]
    rng = np.random.default_rng(derive(seed, "bootstrap"))
    common = 1 + max((int(n.max(initial=-1)) for found in numbers for n in found.values()), default=-1)
    means = np.concatenate(
        [_drawn(gaps, numbers, common, min(CHUNK, draws - start), rng) for start in range(0, draws, CHUNK)]
    )
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Difference(float(np.mean(observed)), float(low), float(high), len(gaps))


def _gaps(one: RowScores, other: RowScores) -> dict[str, NDArray[np.float64]]:
    if one.keys() != other.keys() or any(len(one[c]) != len(other[c]) for c in one):
        raise ValueError("paired results need the same clients and test rows")
    return {client: one[client] - other[client] for client in sorted(one)}


def _of_several_seeds(rows: Sequence[RowKeys]) -> list[dict[str, NDArray[np.int_]]]:
    """Per seed and client, a number for each row that occurs in another seed too, and -1 for the others."""
    seeds_of: dict[Hashable, set[int]] = {}
    for number, clients in enumerate(rows):
        for keys in clients.values():
            for key in keys:
                seeds_of.setdefault(key, set()).add(number)
    common = {key: i for i, key in enumerate(key for key, seeds in seeds_of.items() if len(seeds) > 1)}
    return [
        {client: np.array([common.get(key, -1) for key in clients[client]], dtype=int) for client in sorted(clients)}
        for clients in rows
    ]


def _drawn(
    gaps: Sequence[Mapping[str, NDArray[np.float64]]],
    numbers: Sequence[Mapping[str, NDArray[np.int_]]],
    common: int,
    draws: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Mean differences of as many draws: seeds with replacement, rows by weight."""
    weights_of_common = rng.exponential(size=(draws, common))
    picks = rng.integers(len(gaps), size=(draws, len(gaps)))
    totals = np.zeros(draws)
    for slot in range(len(gaps)):
        for number, clients in enumerate(gaps):
            chosen = np.flatnonzero(picks[:, slot] == number)
            for client, gap in clients.items():
                weights = rng.exponential(size=(len(chosen), len(gap)))
                known = numbers[number][client] >= 0
                weights[:, known] = weights_of_common[np.ix_(chosen, numbers[number][client][known])]
                totals[chosen] += (weights @ gap) / weights.sum(1) / len(clients)
    return totals / len(gaps)
