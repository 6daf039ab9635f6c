"""The means by which FedLEASE averages a cluster, by name."""

import math
from collections.abc import Callable
from typing import Any

from fedlease.core.aggregate import Mean, weighted_mean
from fedlease.core.choices import Average
from fedlease.core.low_rank import product_mean
from fedlease.core.medians import geometric_median, median
from fedlease.core.trimmed_mean import TrimmedMean

__all__ = ["MEANS", "head_mean", "outvoting"]

LEAST = 3
"""Fewest clients for a median to outvote one of them."""

MEANS: dict[Average, Callable[[float], Mean]] = {
    "factors": lambda trim: weighted_mean,
    "product": lambda trim: product_mean,
    "trimmed": TrimmedMean,
    "median": lambda trim: median,
    "geometric-median": lambda trim: geometric_median,
}
"""``fedlease.average`` -> function of ``fedlease.trim`` that returns the mean."""


def outvoting(average: Average, trim: float) -> int:
    """Fewest clients of equal weight for the mean to outvote one of them; 0 for means that never do."""
    if average == "trimmed":
        return math.ceil(1 / trim) if trim else 0
    return LEAST if average in ("median", "geometric-median") else 0


def head_mean(average: Any = "factors", trim: float = 0.1, **other: Any) -> Mean:
    """The mean of shared heads under a method's settings; a mean of products does not apply to heads."""
    return MEANS[average](trim) if average in MEANS and outvoting(average, trim) else weighted_mean
