"""Groups of clients by evidence: two groups merge where one task explains better what they have in common than two.

The model is Spearman's, with one factor per task: client i has the reliability s_i^2, own_i is s_i^2 but for an error,
and cross_ij is c_ij s_i s_j, where the corrected similarity c_ij is 1 for one task and small for two. No client's own
halves have to show enough: where they say little, those of others do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlease.core.reliability import Agreement
from fedlease.core.types import ClientId

__all__ = ["Merged", "fit", "merge"]

Floats = NDArray[np.float64]

ENOUGH = 0.25
"""Evidence, in natural logs of odds, that says that two groups have one task: odds of two to one with errors that are
not widened yet, log 2 / :data:`fedlease.core.reliability.WIDEN` squared."""

SMALLEST = 0.01
"""No s_i is taken to be smaller, so that similarities stay finite."""

STEPS = 40
"""Of the iteration that fits s; it is damped by one half, and has converged to .1 % long before."""


@dataclass(frozen=True)
class Merged:
    """Groups of clients, and how sure they are; the order of rows and columns is that of the clients, sorted.

    Attributes:
        groups: client -> any number, equal within a group; a client that nothing is known of stands alone.
        evidence: client -> log odds of where it is against the best other place: another group, or alone; inf without.
        unsure: clients alone of whom it is not known that their task is another: evidence below :data:`ENOUGH`, or too
            little learnt by themselves.
        reliability: s_i^2, (N,).
        corrected: cross_ij / (s_i s_j), (N, N), diagonal 1: Spearman's correction for attenuation.
        error: its standard error for given s, (N, N), diagonal 0.
    """

    groups: dict[ClientId, int]
    evidence: dict[ClientId, float]
    unsure: tuple[ClientId, ...]
    reliability: Floats
    corrected: Floats
    error: Floats


def fit(found: Agreement, labels: Sequence[int], unlike: float) -> tuple[float, Floats]:
    """The reliabilities under which a grouping explains best what halves have in common.

    Minimises over s

        sum_i (own_i - s_i^2)^2 / e_i^2  +  sum_i<j d_ij^2 / e_ij^2

    where d_ij is cross_ij - s_i s_j within a group, and by how much cross_ij exceeds ``unlike`` s_i s_j between two.

    Args:
        found: of N clients.
        labels: (N,), equal for clients of one group.
        unlike: the largest corrected similarity of two tasks.

    Returns:
        The smallest misfit, a chi square, and s, (N,).
    """
    label = np.asarray(labels)
    same = label[:, None] == label
    most, precision = np.where(same, 1.0, unlike), np.square(1 / found.cross_error)
    np.fill_diagonal(precision, 0)
    own_precision = np.square(1 / found.own_error)
    s = np.sqrt(np.clip(found.own, 0.02, 1))
    for _ in range(STEPS):
        counts = precision * (same | (found.cross > most * np.outer(s, s)))
        pull = (counts * most * found.cross) @ s + 2 * own_precision * found.own * s
        weight = (counts * np.square(most)) @ np.square(s) + 2 * own_precision * np.square(s)
        s = (s + np.clip(pull / weight, SMALLEST, 1)) / 2
    beyond = found.cross - most * np.outer(s, s)
    misfit = (precision * np.square(np.where(same, beyond, np.maximum(beyond, 0)))).sum() / 2
    return float(misfit + (own_precision * np.square(found.own - np.square(s))).sum()), s


def merge(found: Agreement, cut: float = 0.3) -> Merged:
    """Groups clients until no two groups are explained better as one.

    The evidence for one task in two groups is half of what :func:`fit` of both as two groups misses more than that of
    both as one, a log likelihood ratio. The two groups with the most are merged first, as long as it is above
    :data:`ENOUGH`. So M follows from a rule with a meaning, and M = 1 is an ordinary outcome.

    Args:
        found: of all clients.
        cut: in (0, .5]. Similarities above 1 - cut speak for one task, so that 1 - 2 cut is the largest of two tasks.

    Raises:
        ValueError: the cut is out of range.
    """
    if not 0 < cut <= 0.5:
        raise ValueError(f"cut must be above 0 and at most 0.5, received {cut}")
    count, unlike = len(found.clients), 1 - 2 * cut
    groups = [[place] for place in range(count)]
    evidence = np.full((count, count), -np.inf)

    def weigh(one: int, other: int) -> None:
        evidence[one, other] = evidence[other, one] = _evidence(found, groups[one], groups[other], unlike)

    for one in range(count):
        for other in range(one):
            weigh(one, other)
    while count and evidence.max() > ENOUGH:
        one, other = sorted(map(int, np.unravel_index(evidence.argmax(), evidence.shape)))
        groups[one] += groups[other]
        groups[other] = []
        evidence[other] = evidence[:, other] = -np.inf
        for third in range(count):
            if third != one and groups[third]:
                weigh(one, third)
    labels = {place: number for number, members in enumerate(groups) for place in members}
    margins = {place: _margin(found, groups, place, unlike) for place in labels}
    alone = [place for place, number in labels.items() if len(groups[number]) == 1]
    _, s = fit(found, [labels[place] for place in range(count)], unlike)
    both = np.outer(s, s)
    corrected, error = found.cross / both, found.cross_error / both
    np.fill_diagonal(corrected, 1)
    np.fill_diagonal(error, 0)
    return Merged(
        {found.clients[place]: number for place, number in labels.items()},
        {found.clients[place]: margin for place, margin in margins.items()},
        tuple(found.clients[place] for place in sorted(alone) if margins[place] < ENOUGH or not found.learnt[place]),
        np.square(s),
        corrected,
        error,
    )


def _evidence(found: Agreement, one: Sequence[int], other: Sequence[int], unlike: float) -> float:
    places = [*one, *other]
    square = np.ix_(places, places)
    part = Agreement([], found.own[places], found.own_error[places], found.cross[square], found.cross_error[square])
    apart, _ = fit(part, [0] * len(one) + [1] * len(other), unlike)
    together, _ = fit(part, [0] * len(places), unlike)
    return (apart - together) / 2


def _margin(found: Agreement, groups: Sequence[Sequence[int]], place: int, unlike: float) -> float:
    """Evidence for the group of a client less that for the best other place; of a client alone, against all groups."""
    rest = next([member for member in members if member != place] for members in groups if place in members)
    others = [_evidence(found, [place], members, unlike) for members in groups if members and place not in members]
    own = _evidence(found, [place], rest, unlike) if rest else 0.0
    # A client in a group might also stand alone; one that is the only one has no other place.
    return own - max([*others, 0.0] if rest else others, default=-np.inf)
