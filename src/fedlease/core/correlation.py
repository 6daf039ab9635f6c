"""Correlations of predictions with true values, and the same without each row in turn."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["pearson", "pearson_without", "spearman", "spearman_without"]

Values = NDArray[np.float64]

CHUNK = 4_000_000
"""Pairs of rows that are compared at once."""

NOTHING = 1e-12
"""Share of the sum of squares up to which a spread counts as 0: rounding leaves this much of equal numbers."""


def pearson(one: Values, two: Values) -> float:
    """Pearson's correlation of two lists of numbers; 0 where one of them does not vary."""
    x, y = one - one.mean(), two - two.mean()
    return float(_ratio(x @ y, x @ x, y @ y, float(one @ one), float(two @ two)))


def pearson_without(one: Values, two: Values) -> Values:
    """Pearson's correlation without row i, (n,), of at least two rows."""
    rows, x, y = len(one), one - one.mean(), two - two.mean()
    part = rows / (rows - 1)
    squares = (float(one @ one), float(two @ two))
    return _ratio(x @ y - part * x * y, x @ x - part * x * x, y @ y - part * y * y, *squares)


def spearman(one: Values, two: Values) -> float:
    """Spearman's correlation: Pearson's correlation of the ranks, where equal numbers share their mean rank."""
    return pearson(_ranks(one), _ranks(two))


def spearman_without(one: Values, two: Values) -> Values:
    """Spearman's correlation without row i, (n,), of at least two rows.

    Without row i, the rank of row j falls by 1 if row i was below it, and by 1/2 if they were equal.
    """
    rows, r, s = len(one), _ranks(one), _ranks(two)
    found = np.empty(rows)
    mean, step = rows / 2, max(1, CHUNK // rows)
    for begin in range(0, rows, step):
        chosen = slice(begin, begin + step)
        a, b = _above(one, chosen), _above(two, chosen)  # (step, n)
        # The sums must not include row i itself, whose rank was lowered by 1/2 as equal to itself.
        own_r, own_s = r[chosen] - 0.5, s[chosen] - 0.5
        spread = (rows - 1) * mean**2
        xy = r @ s - b @ r - a @ s + np.einsum("ij,ij->i", a, b) - own_r * own_s - spread
        xx = r @ r - 2 * (a @ r) + np.einsum("ij,ij->i", a, a) - own_r**2 - spread
        yy = s @ s - 2 * (b @ s) + np.einsum("ij,ij->i", b, b) - own_s**2 - spread
        found[chosen] = _ratio(xy, xx, yy, float(r @ r), float(s @ s))
    return found


def _ranks(values: Values) -> Values:
    """Ranks from 1, (n,); equal numbers share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    found: Values = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return found


def _above(values: Values, chosen: slice) -> Values:
    """(chosen, n): 1 where row j is above chosen row i, a half where they are equal."""
    below = values[chosen, None]
    found: Values = (values[None] > below) + 0.5 * (values[None] == below)
    return found


def _ratio(xy: ArrayLike, xx: ArrayLike, yy: ArrayLike, of_x: float, of_y: float) -> Values:
    """xy / sqrt(xx yy) in [-1, 1]; 0 where xx or yy is negligible beside its raw sum of squares, of_x or of_y."""
    both, first, second = (np.asarray(part, np.float64) for part in (xy, xx, yy))
    varies = (first > NOTHING * of_x) & (second > NOTHING * of_y)
    scale = np.sqrt(np.where(varies, first, 1.0)) * np.sqrt(np.where(varies, second, 1.0))
    found: Values = np.where(varies, np.clip(both / scale, -1.0, 1.0), 0.0)
    return found
