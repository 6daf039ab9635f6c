"""Groups of clients by corrected similarity: two merge unless they stand below 1 by more than the error allows."""

from typing import Literal

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from fedlease.core.reliability import Similarities
from fedlease.core.types import ClientId

__all__ = ["Answer", "compare", "merge"]

Answer = Literal["same", "different", "unknown"]

UNKNOWN = 0.5
"""Half way between unrelated and the same task: no error, however large, makes a lower similarity the same task."""

SURE = 2.0
"""Standard errors within which a similarity is compatible with 1, about 19 of 20 times."""


def compare(similarity: float, error: float, cut: float) -> Answer:
    """Whether two clients, or two groups of clients, have one task.

    Args:
        similarity: corrected, 1 for one task.
        error: its standard error.
        cut: a similarity above 1 - cut is one task however small the error is, since tasks are rarely quite the same.

    Returns:
        ``same``, within the cut of 1; ``unknown``, below it by less than two errors; else ``different``.
    """
    if similarity >= 1 - cut:
        return "same"
    return "unknown" if similarity >= max(1 - SURE * error, UNKNOWN) else "different"


def merge(found: Similarities, cut: float = 0.3) -> dict[ClientId, int]:
    """Groups the clients that have learnt their task: client -> any number, equal within a group.

    Average linkage on 1 - c_ij; a branch of its tree is one group if both its branches are and :func:`compare` does not
    call them different. So M follows from a rule with a meaning, and M = 1 is an ordinary outcome. A client that has
    not learnt is not in the result: its similarities say nothing. Where nobody has learnt, the result is empty.

    Args:
        found: of all clients.
        cut: in (0, 1), see :func:`compare`.

    Raises:
        ValueError: the cut is out of range.
    """
    if not 0 < cut < 1:
        raise ValueError(f"cut must be above 0 and below 1, received {cut}")
    places = [place for place, learnt in enumerate(found.learnt) if learnt]
    if len(places) < 2:
        return {found.clients[place]: place for place in places}
    d = 1 - found.corrected[places][:, places].numpy()
    # Linkage wants distances that are not negative; a constant moves every height alike.
    lowest = min(0.0, float(d.min()))
    d = d - lowest
    np.fill_diagonal(d, 0)
    branches: list[tuple[list[int], bool]] = [([place], True) for place in places]
    for left, right, *_ in linkage(squareform(d, checks=False), method="average"):
        (one, whole), (other, complete) = branches[int(left)], branches[int(right)]
        together = whole and complete and compare(*found.between(one, other), cut) != "different"
        branches.append(([*one, *other], together))
    groups: dict[ClientId, int] = {}
    # From the root down: the first branch that is one group decides for all of its clients.
    for number, (members, together) in enumerate(reversed(branches)):
        if together:
            for place in members:
                groups.setdefault(found.clients[place], number)
    return groups
