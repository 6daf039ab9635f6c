"""Groups of clients by evidence: one task or two, whichever explains better what halves of rows have in common.

The model is Spearman's, with one factor per task. Client i has the reliability s_i^2, and what clients share is

    own_i     s_i^2, but for an error
    cross_ij  s_i s_j, but for an error, where i and j have one task
    cross_ij  anything from 0 to g s_i s_j, but for an error, where they have two

All tasks of a federation have a part in common, g, since an adapter also learns what they share: the longer warm-ups
are, the more. It is found from the same numbers, so that nothing depends on a cut between like and unlike. No client's
own halves have to show enough: where they say little, those of others do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlease.core.reliability import Agreement
from fedlease.core.types import ClientId

__all__ = ["ENOUGH", "Fit", "Merged", "fit", "log_odds", "merge"]

Floats = NDArray[np.float64]

ENOUGH = math.log(2)
"""Log odds that say that two groups have one task: two to one."""

COMMON = 0.05
"""g is expected to be about this large; more has to be seen to be believed. The scale of a half-normal prior."""

PAIRS = 100
"""Pairs of unlike clients that the prior is for; it weighs as much more as there are more. Otherwise g would grow with
the number of clients: of many pairs some exceed any bound by chance."""

SPREAD = 0.05
"""Two tasks may have more in common than g by about so much of s_i s_j."""

SMALLEST = 0.01
"""No s_i is taken to be smaller, so that similarities stay finite."""

POSSIBLE = 0.2
"""While groups are sought, no s_i is taken to be smaller: what has not shown itself in a client may in its group."""

STEPS = 25
"""Of the iteration that fits s and g; it is damped by one half, and has converged to .1 % before."""

OFTEN = 0.97
"""The model is fitted anew whenever the number of groups has fallen to this share, which is each time up to 33."""

SWEEPS = 3
"""So many times every client may move to a place that suits it better."""


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


@dataclass(frozen=True)
class Merged:
    """Groups of clients, and how sure they are; the order of rows and columns is that of the clients, sorted.

    Attributes:
        groups: client -> any number, equal within a group; a client that nothing is known of stands alone.
        evidence: client -> log odds of where it is against the best other place: another group, or alone; inf without.
        unsure: clients alone of whom it is not known that their task is another: evidence below :data:`ENOUGH`, or too
            little learnt by themselves.
        reliability: s_i^2, (N,).
        corrected: cross_ij / (s_i s_j), (N, N), diagonal 1: Spearman's correction for attenuation. None where not all
            pairs were compared.
        error: its standard error for given s, (N, N), diagonal 0.
    """

    groups: dict[ClientId, int]
    evidence: dict[ClientId, float]
    unsure: tuple[ClientId, ...]
    reliability: Floats
    corrected: Floats | None
    error: Floats | None


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
    variance = _variance(found)
    own_precision = 1 / np.square(found.own_error)
    mates = np.where(same & pairs, found.cross, 0).sum(1) / np.maximum((same & pairs).sum(1), 1)
    s, common = np.sqrt(np.clip(np.maximum(found.own, mates), 0.02, 1)), 0.1 if (~same).any() else 0.0
    prior = max(1.0, (~same).sum() / 2 / PAIRS) / COMMON**2
    for _ in range(STEPS):
        both = np.outer(s, s)
        most = np.where(same, 1.0, common)
        spread = variance + np.where(same, 0, np.square(SPREAD * both))
        # A pair of two tasks says something of s only where it has more in common than it may.
        counts = np.where(pairs & (same | (found.cross > most * both)), 1 / spread, 0)
        pull = (counts * most * found.cross) @ s + 2 * own_precision * found.own * s
        weight = (counts * np.square(most)) @ np.square(s) + 2 * own_precision * np.square(s)
        s = (s + np.clip(pull / weight, SMALLEST, 1)) / 2
        if (~same).any():
            both = np.outer(s, s)
            above = np.where(~same & (found.cross > common * both), 1 / (variance + np.square(SPREAD * both)), 0)
            common = float((above * both * found.cross).sum() / ((above * both * both).sum() + 2 * prior))
            common = min(max(common, 0.0), 1.0)
    both = np.outer(s, s)
    spread = variance + np.where(same, 0, np.square(SPREAD * both))
    missed = np.where(same, found.cross - both, found.cross - np.clip(found.cross, 0, common * both))
    between = np.where(pairs, np.square(missed) / spread + np.log(spread / variance), 0).sum() / 4
    within = (own_precision * np.square(found.own - np.square(s))).sum() / 2
    return Fit(float(between + within + prior * common**2 / 2), s, common)


def log_odds(found: Agreement, fitted: Fit) -> Floats:
    """How much likelier every pair of clients is to have one task than two, (N, N) in nats, 0 on the diagonal."""
    s = np.maximum(fitted.s, POSSIBLE)
    both, variance = np.outer(s, s), _variance(found)
    spread = variance + np.square(SPREAD * both)
    beyond = found.cross - np.clip(found.cross, 0, fitted.common * both)
    odds: Floats = (np.square(beyond) / spread - np.square(found.cross - both) / variance) / 2
    odds += np.log(spread / variance) / 2
    np.fill_diagonal(odds, 0)
    return odds


def merge(found: Agreement) -> Merged:
    """Groups clients by what explains best what they have in common, as few groups as that allows but for the odds.

    Starting from every client alone, the two groups with the largest sum of log odds over their pairs are merged until
    one is left. Of all these groupings that with the smallest misfit is taken, where each merge must be worth
    :data:`ENOUGH`; then clients move where that makes it smaller still. So M follows from a rule with a meaning, and
    M = 1 is an ordinary outcome: many pairs that say a little each say a lot together.

    Args:
        found: of all clients.
    """
    labels = _moved(found, _path(found))
    fitted = fit(found, labels)
    gains = _gains(found, fitted, labels)
    evidence = {client: _margin(gains[place], labels, place) for place, client in enumerate(found.clients)}
    alone = [place for place, label in enumerate(labels) if (labels == label).sum() == 1]
    both = np.outer(fitted.s, fitted.s)
    corrected, error = found.cross / both, found.cross_error / both
    np.fill_diagonal(corrected, 1)
    np.fill_diagonal(error, 0)
    return Merged(
        dict(zip(found.clients, labels.tolist(), strict=True)),
        evidence,
        tuple(c for p in alone if evidence[c := found.clients[p]] < ENOUGH or not found.learnt[p]),
        np.square(fitted.s),
        corrected,
        error,
    )


def _variance(found: Agreement) -> Floats:
    """Squared errors of what pairs have in common; 1 on the diagonal, which is no pair."""
    variance: Floats = np.square(found.cross_error)
    np.fill_diagonal(variance, 1)
    return variance


def _cost(fitted: Fit, labels: NDArray[np.int_]) -> float:
    return fitted.misfit - ENOUGH * len(np.unique(labels))


def _path(found: Agreement) -> NDArray[np.int_]:
    """The best grouping on the way from every client alone to all in one group."""
    labels = np.arange(len(found.clients))
    fitted = fit(found, labels)
    best, taken, last = _cost(fitted, labels), labels, len(labels)
    sums = log_odds(found, fitted)
    for count in range(len(labels) - 1, 0, -1):
        ids = np.unique(labels)
        between = sums[np.ix_(ids, ids)]
        np.fill_diagonal(between, -np.inf)
        one, other = ids[list(np.unravel_index(between.argmax(), between.shape))]
        labels = np.where(labels == other, one, labels)
        sums[one] += sums[other]
        sums[:, one] += sums[:, other]
        if count <= OFTEN * last:
            fitted, last = fit(found, labels), count
            if (cost := _cost(fitted, labels)) < best:
                best, taken = cost, labels
            sums = _sums(log_odds(found, fitted), labels)
    return taken


def _sums(odds: Floats, labels: NDArray[np.int_]) -> Floats:
    """Log odds summed over the pairs of two groups, at [label, label]."""
    member = (labels[:, None] == np.arange(len(labels))).astype(float)
    sums: Floats = member.T @ odds @ member
    return sums


def _gains(found: Agreement, fitted: Fit, labels: NDArray[np.int_]) -> Floats:
    """Log odds of every client with every group, without itself, at [place, label]."""
    gains: Floats = log_odds(found, fitted) @ (labels[:, None] == np.arange(len(labels)))
    return gains


def _moved(found: Agreement, labels: NDArray[np.int_]) -> NDArray[np.int_]:
    """The grouping after clients have moved one by one to places that suit them better."""
    fitted = fit(found, labels)
    best = _cost(fitted, labels)
    for _ in range(SWEEPS):
        before = best
        gains = _gains(found, fitted, labels)
        for place in range(len(labels)):
            others = {*labels.tolist()} - {int(labels[place])}
            free = next((label for label in range(len(labels)) if not (labels == label).any()), None)
            single = (labels == labels[place]).sum() == 1
            worth = {label: float(gains[place, label]) - ENOUGH for label in others}
            if free is not None and not single:
                worth[free] = 0.0
            to = max(sorted(worth), key=worth.__getitem__, default=None)
            here = 0.0 if single else float(gains[place, labels[place]]) - ENOUGH
            if to is None or worth[to] <= here:
                continue
            changed = labels.copy()
            changed[place] = to
            if (cost := _cost(tried := fit(found, changed), changed)) < best:
                best, labels, fitted = cost, changed, tried
        if best == before:
            break
    return labels


def _margin(gains: Floats, labels: NDArray[np.int_], place: int) -> float:
    """Evidence for the group of a client less that for the best other place; of a client alone, against all groups."""
    own = labels[place]
    others = [float(gains[label]) for label in {*labels.tolist()} - {int(own)}]
    if (labels == own).sum() > 1:
        return float(gains[own]) - max([*others, 0.0])
    return -max(others) if others else math.inf
