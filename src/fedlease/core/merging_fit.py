"""Spearman's factor model with one factor per task, fitted to the similarities of halves under a grouping of clients.

Client i has the reliability s_i^2. Apart from errors, the similarities are

    own_i     s_i^2, between the halves of client i
    cross_ij  s_i s_j, where clients i and j have one task
    cross_ij  between 0 and g s_i s_j, where they have two tasks

All tasks of a federation have something in common, at most g: adapters also learn what the tasks share, and the more so
the longer warm-ups are. g is fitted together with s, so that no threshold between like and unlike is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlease.core.reliability import Agreement, Floats

__all__ = [
    "STEPS",
    "Fit",
    "first_guess",
    "fit",
    "misfits",
    "nearer",
    "precisions",
    "variance_of",
]

COMMON = 0.05
"""Scale of the half-normal prior of g."""

PAIRS = 100
"""Pairs of unlike clients up to which the prior has weight 1; with more pairs its weight grows in proportion. Otherwise
g would grow with the number of clients, since of many pairs some exceed any bound by chance."""

SPREAD = 0.05
"""Standard deviation, as a share of s_i s_j, by which two tasks may have more in common than g."""

SMALLEST = 0.01
"""Lower bound of s_i, which keeps corrected similarities finite."""

STEPS = 25
"""Steps of the iteration that fits s and g; damped by one half, it converges to 0.1 % in fewer."""


@dataclass(frozen=True)
class Fit:
    """The model that fits best under a grouping.

    Attributes:
        misfit: negative log posterior in nats, up to a constant that is the same for all groupings.
        s: (N,), square roots of the reliabilities.
        common: g, in 0 .. 1.
    """

    misfit: float
    s: Floats
    common: float


def fit(found: Agreement, labels: Sequence[int] | NDArray[np.int_]) -> Fit:
    """Fits the model to a grouping.

    With e the errors and d_ij the distance of cross_ij from the values that the model allows, it minimises over s and g

        sum_i (own_i - s_i^2)^2 / 2 e_i^2  +  sum_i<j (d_ij^2 / v_ij + log(v_ij / e_ij^2)) / 2  +  w (g / COMMON)^2 / 2

    where v_ij is e_ij^2 within a group and e_ij^2 + (SPREAD s_i s_j)^2 between groups, and w is the number of pairs
    between groups divided by :data:`PAIRS`, at least 1.

    Args:
        found: similarities of N clients.
        labels: (N,), equal for clients of one group.
    """
    label = np.asarray(labels)
    same = label[:, None] == label
    pairs = ~np.eye(len(label), dtype=bool)
    variance = variance_of(found)
    own_precision = 1 / np.square(found.own_error)
    s, common = first_guess(found.own, found.cross, same & pairs), 0.1 if (~same).any() else 0.0
    prior = max(1.0, (~same).sum() / 2 / PAIRS) / COMMON**2
    for _ in range(STEPS):
        counts, most = precisions(found.cross, np.outer(s, s), variance, same, common)
        s = nearer(s, s, np.where(pairs, counts, 0), most, found.cross, found.own, own_precision)
        if (~same).any():
            both = np.outer(s, s)
            above = np.where(same, 0, precisions(found.cross, both, variance, same, common)[0])
            common = float((above * both * found.cross).sum() / ((above * both * both).sum() + 2 * prior))
            common = min(max(common, 0.0), 1.0)
    between = np.where(pairs, misfits(found.cross, np.outer(s, s), variance, same, common), 0).sum() / 4
    within = (own_precision * np.square(found.own - np.square(s))).sum() / 2
    return Fit(float(between + within + prior * common**2 / 2), s, common)


def first_guess(own: Floats, cross: Floats, mates: NDArray[np.bool_]) -> Floats:
    """Initial s of the iteration, (n,): the root of the own similarity or of the mean one in the group, if larger.

    Args:
        own: (n,).
        cross: (n, C).
        mates: whether two different clients are in one group, (n, C).
    """
    shared = np.where(mates, cross, 0).sum(1) / np.maximum(mates.sum(1), 1)
    guess: Floats = np.sqrt(np.clip(np.maximum(own, shared), 0.02, 1))
    return guess


def precisions(
    cross: Floats, both: Floats, variance: Floats, same: NDArray[np.bool_], common: float
) -> tuple[Floats, Floats]:
    """Precision of what every pair says about s, and the largest share of s_i s_j allowed for it, both (n, C).

    Args:
        cross: similarities.
        both: s_i s_j.
        variance: squared errors of ``cross``.
        same: whether the pair is in one group.
        common: g.
    """
    most = np.where(same, 1.0, common)
    # A pair of two tasks says something about s only where its similarity is above the allowed one.
    return np.where(same | (cross > most * both), 1 / _spread(both, variance, same), 0), most


def nearer(
    s: Floats, others: Floats, counts: Floats, most: Floats, cross: Floats, own: Floats, own_precision: Floats
) -> Floats:
    """One damped step of the iteration for s of n clients, (n,), given the s of C others; see :func:`precisions`."""
    pull = (counts * most * cross) @ others + 2 * own_precision * own * s
    weight = (counts * np.square(most)) @ np.square(others) + 2 * own_precision * np.square(s)
    found: Floats = (s + np.clip(pull / weight, SMALLEST, 1)) / 2
    return found


def misfits(cross: Floats, both: Floats, variance: Floats, same: NDArray[np.bool_], common: float) -> Floats:
    """Twice the term of every pair in the sum of :func:`fit`, (n, C); arguments as for :func:`precisions`."""
    spread = _spread(both, variance, same)
    missed = np.where(same, cross - both, cross - np.clip(cross, 0, common * both))
    found: Floats = np.square(missed) / spread + np.log(spread / variance)
    return found


def _spread(both: Floats, variance: Floats, same: NDArray[np.bool_]) -> Floats:
    spread: Floats = variance + np.where(same, 0, np.square(SPREAD * both))
    return spread


def variance_of(found: Agreement) -> Floats:
    """Squared errors of the similarities of pairs; 1 on the diagonal, which is not a pair."""
    variance: Floats = np.square(found.cross_error)
    np.fill_diagonal(variance, 1)
    return variance
