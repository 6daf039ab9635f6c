"""A model of what halves of clients' rows have in common, fitted to groups of clients: Spearman's, with one factor per
task. Client i has the reliability s_i^2, and what clients share is

    own_i     s_i^2, but for an error
    cross_ij  s_i s_j, but for an error, where i and j have one task
    cross_ij  anything from 0 to g s_i s_j, but for an error, where they have two

All tasks of a federation have a part in common, g, since an adapter also learns what they share: the longer warm-ups
are, the more. It is found from the same numbers, so that nothing depends on a cut between like and unlike.
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
"""g is expected to be about this large; more has to be seen to be believed. The scale of a half-normal prior."""

PAIRS = 100
"""Pairs of unlike clients that the prior is for; it weighs as much more as there are more. Otherwise g would grow with
the number of clients: of many pairs some exceed any bound by chance."""

SPREAD = 0.05
"""Two tasks may have more in common than g by about so much of s_i s_j."""

SMALLEST = 0.01
"""No s_i is taken to be smaller, so that similarities stay finite."""

STEPS = 25
"""Steps of the iteration that fits s and g; damped by one half, it converges to .1 % in fewer."""


@dataclass(frozen=True)
class Fit:
    """The model under which a grouping explains best what halves have in common.

    Attributes:
        misfit: negative log posterior in nats, up to a constant that is the same for all groupings.
        s: (N,), roots of the reliabilities.
        common: g, in 0 .. 1.
    """

    misfit: float
    s: Floats
    common: float


def fit(found: Agreement, labels: Sequence[int] | NDArray[np.int_]) -> Fit:
    """Fits the model to a grouping.

    Minimises over s and g, with e the errors and d_ij what cross_ij misses of what the model admits,

        sum_i (own_i - s_i^2)^2 / 2 e_i^2  +  sum_i<j (d_ij^2 / v_ij + log(v_ij / e_ij^2)) / 2  +  w (g / COMMON)^2 / 2

    where v_ij is e_ij^2 within a group, and e_ij^2 + (SPREAD s_i s_j)^2 between two, and w is 1 up to :data:`PAIRS`
    pairs between groups, and grows with them.

    Args:
        found: of N clients.
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
    """Where the iteration begins: s by a client's own halves or by those of its group, whichever say more, (n,).

    Args:
        own: (n,).
        cross: (n, C).
        mates: whether two clients are of one group, (n, C); nobody is its own mate.
    """
    shared = np.where(mates, cross, 0).sum(1) / np.maximum(mates.sum(1), 1)
    guess: Floats = np.sqrt(np.clip(np.maximum(own, shared), 0.02, 1))
    return guess


def precisions(
    cross: Floats, both: Floats, variance: Floats, same: NDArray[np.bool_], common: float
) -> tuple[Floats, Floats]:
    """How much every pair says of s, and the share of s_i s_j that it has in common at most, both (n, C).

    Args:
        cross: what pairs have in common.
        both: s_i s_j.
        variance: squared errors of ``cross``.
        same: whether the pair is of one group.
        common: g.
    """
    most = np.where(same, 1.0, common)
    # A pair of two tasks says something of s only where it has more in common than it may.
    return np.where(same | (cross > most * both), 1 / _spread(both, variance, same), 0), most


def nearer(
    s: Floats, others: Floats, counts: Floats, most: Floats, cross: Floats, own: Floats, own_precision: Floats
) -> Floats:
    """One step of the iteration: s of n clients, (n,), beside that of C others; see :func:`precisions`."""
    pull = (counts * most * cross) @ others + 2 * own_precision * own * s
    weight = (counts * np.square(most)) @ np.square(others) + 2 * own_precision * np.square(s)
    found: Floats = (s + np.clip(pull / weight, SMALLEST, 1)) / 2
    return found


def misfits(cross: Floats, both: Floats, variance: Floats, same: NDArray[np.bool_], common: float) -> Floats:
    """What every pair adds to the sum in :func:`fit`, twice, (n, C); arguments as for :func:`precisions`."""
    spread = _spread(both, variance, same)
    missed = np.where(same, cross - both, cross - np.clip(cross, 0, common * both))
    found: Floats = np.square(missed) / spread + np.log(spread / variance)
    return found


def _spread(both: Floats, variance: Floats, same: NDArray[np.bool_]) -> Floats:
    spread: Floats = variance + np.where(same, 0, np.square(SPREAD * both))
    return spread


def variance_of(found: Agreement) -> Floats:
    """Squared errors of what pairs have in common; 1 on the diagonal, which is no pair."""
    variance: Floats = np.square(found.cross_error)
    np.fill_diagonal(variance, 1)
    return variance
