"""Grouping of clients by evidence: two groups have one task if that explains the similarities of halves better.

The model is that of :mod:`fedlease.core.merging_fit`. Evidence adds up over pairs, so that clients whose own halves say
little can still be grouped.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlease.core.merging_fit import Fit, fit, misfits, variance_of
from fedlease.core.reliability import Agreement, Floats
from fedlease.core.types import ClientId

__all__ = ["ENOUGH", "POSSIBLE", "SURE", "Merged", "likeness", "log_odds", "merge"]

ENOUGH = math.log(2)
"""Log odds needed for merging two groups: two to one."""

SURE = 1.0
"""Log odds from which the group of a client counts as sure: about three to one."""

POSSIBLE = 0.2
"""Lower bound of s_i while groups are sought: a client that has shown little may still belong to a group."""

OFTEN = 0.97
"""The model is fitted again when the number of groups has fallen to this share; up to 33 groups, after every merge."""

STANDS_OUT = 2.0
"""Factor by which an unsure client must have more in common with a group than with any other to join it."""

SWEEPS = 3
"""Most passes in which every client may move to a better group."""


@dataclass(frozen=True)
class Merged:
    """Groups of clients with their evidence; rows and columns are in the order of the sorted clients.

    Attributes:
        groups: client -> any number, equal within a group; a client of which nothing is known is alone.
        evidence: client -> log odds of its group against the best alternative, another group or being alone; infinite
            without an alternative.
        unsure: clients that are alone but may have the task of others: their evidence is below :data:`ENOUGH`, or they
            have learnt too little.
        reliability: s_i^2, (N,).
        corrected: cross_ij / (s_i s_j), (N, N), diagonal 1: Spearman's correction for attenuation. None where not all
            pairs were compared.
        error: standard error of ``corrected`` for given s, (N, N), diagonal 0.
        common: g, the most that unlike tasks have in common.
    """

    groups: dict[ClientId, int]
    evidence: dict[ClientId, float]
    unsure: tuple[ClientId, ...]
    reliability: Floats
    corrected: Floats | None
    error: Floats | None
    common: float


def log_odds(found: Agreement, fitted: Fit) -> Floats:
    """Log odds that a pair of clients has one task rather than two, (N, N) in nats, 0 on the diagonal."""
    s = np.maximum(fitted.s, POSSIBLE)
    both, variance, same = np.outer(s, s), variance_of(found), np.ones_like(found.cross, dtype=bool)
    one, two = (misfits(found.cross, both, variance, known, fitted.common) for known in (same, ~same))
    odds: Floats = (two - one) / 2
    np.fill_diagonal(odds, 0)
    return odds


def merge(found: Agreement) -> Merged:
    """Groups clients so that the model explains their similarities best, with a prior of two to one against merging.

    Starting with every client alone, the two groups with the largest sum of log odds over their pairs are merged until
    one group is left. Of all these groupings, the one with the smallest cost is taken: its misfit, less
    :data:`ENOUGH` for every group. Then single clients move where that lowers the cost. M is therefore a result of the
    evidence, and M = 1 is an ordinary one.

    The reliability of an unsure client is unknown, so only its similarities with different groups can be compared: it
    joins the group that stands out by :data:`STANDS_OUT`.

    Args:
        found: of all clients.
    """
    labels = _moved(found, _path(found))
    fitted, evidence, unsure = _judged(found, labels)
    if (joined := _joined(found, fitted, labels, unsure)) is not labels:
        labels = joined
        fitted, evidence, unsure = _judged(found, labels)
    both = np.outer(fitted.s, fitted.s)
    corrected, error = found.cross / both, found.cross_error / both
    np.fill_diagonal(corrected, 1)
    np.fill_diagonal(error, 0)
    return Merged(
        dict(zip(found.clients, labels.tolist(), strict=True)),
        evidence,
        tuple(found.clients[place] for place in unsure),
        np.square(fitted.s),
        corrected,
        error,
        fitted.common,
    )


def _judged(found: Agreement, labels: NDArray[np.int_]) -> tuple[Fit, dict[ClientId, float], list[int]]:
    """The fitted model of a grouping, the evidence of every client, and the places of unsure clients."""
    fitted = fit(found, labels)
    gains = _gains(found, fitted, labels)
    evidence = {client: _margin(gains[place], labels, place) for place, client in enumerate(found.clients)}
    alone = [place for place, label in enumerate(labels) if (labels == label).sum() == 1]
    return fitted, evidence, [p for p in alone if evidence[found.clients[p]] < ENOUGH or not found.learnt[p]]


def _joined(found: Agreement, fitted: Fit, labels: NDArray[np.int_], unsure: list[int]) -> NDArray[np.int_]:
    """The grouping after unsure clients have joined groups that stand out; the same array if none has joined."""
    s = np.maximum(fitted.s, POSSIBLE)
    for place in unsure:
        others = np.setdiff1d(labels, labels[place])
        if (labels == labels[place]).sum() > 1 or len(others) < 2:
            continue
        member = (labels[:, None] == others).astype(float)
        # All pairs share the errors of this client, which therefore do not average out.
        alike, errors = (likeness(rows[place], s, member) for rows in (found.cross, found.cross_error))
        best, second = np.argsort(-alike, kind="stable")[:2]
        if alike[best] > max(STANDS_OUT * alike[second], 2 * errors[best]):
            labels = labels.copy()
            labels[place] = others[best]
    return labels


def likeness(cross: Floats, s: Floats, member: Floats) -> Floats:
    """What n clients have in common with G groups, times the clients' own s: (n, G), or (G,) for one client.

    Args:
        cross: similarities with each of C grouped clients, (n, C) or (C,).
        s: of the grouped clients, (C,).
        member: 1 where a grouped client is in a group, else 0, (C, G).
    """
    found: Floats = (cross * s) @ member / (np.square(s) @ member)
    return found


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
    """Log odds summed over the pairs between two groups, (N, N), indexed by labels."""
    member = (labels[:, None] == np.arange(len(labels))).astype(float)
    sums: Floats = member.T @ odds @ member
    return sums


def _gains(found: Agreement, fitted: Fit, labels: NDArray[np.int_]) -> Floats:
    """Log odds between every client and the other members of every group, (N, N): client by label."""
    gains: Floats = log_odds(found, fitted) @ (labels[:, None] == np.arange(len(labels)))
    return gains


def _moved(found: Agreement, labels: NDArray[np.int_]) -> NDArray[np.int_]:
    """The grouping after single clients have moved where that lowers the cost."""
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
    """Log odds of a client's place, its group or being alone, against the best alternative."""
    own = labels[place]
    others = [float(gains[label]) for label in {*labels.tolist()} - {int(own)}]
    if (labels == own).sum() > 1:
        return float(gains[own]) - max([*others, 0.0])
    return -max(others) if others else math.inf
