"""Describes how sure an allocation by corrected similarities is of each client: numbers, a table and sentences."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlease.core.merging import SURE
from fedlease.core.types import Allocation
from fedlease.core.wording import counted, expert_name, listed
from fedlease.reporting.run.data import RunData
from fedlease.reporting.tables import Cell, Table, number

__all__ = [
    "Nearness",
    "certainty_table",
    "certainty_words",
    "decisions",
    "doubts",
    "known_similarities",
    "nearness",
]

SHOWN = 8
"""Most clients that a sentence names."""
SMALL = 0.15
"""Silhouette that splits of a single task reach after a short warm-up, so that a smaller one may be noise."""
CLOSE = 0.03
"""Difference of two silhouettes that another seed easily reverses. With four GLUE tasks and eight clients, those of 4
and 5 groups were this close on all of five seeds, and 5 groups were chosen on one."""


@dataclass(frozen=True)
class Nearness:
    """The mean corrected similarity of a client to the clients of a group that have learnt their task.

    Attributes:
        expert: the group's expert.
        similarity: 1 for the same task, 0 for an unrelated one.
        error: mean of the pairs' standard errors, an upper bound of the standard error of ``similarity``.
    """

    expert: int
    similarity: float
    error: float

    def __str__(self) -> str:
        return f"{self.similarity:.2f} ± {self.error:.2f}"


def known_similarities(grouping: Allocation) -> NDArray[np.float64]:
    """Corrected similarities, (N, N); NaN also for clients that have not learnt their task."""
    matrix = np.asarray(grouping.corrected, dtype=np.float64).copy()
    unsure = [place for place, client in enumerate(grouping.clients) if client in grouping.unsure]
    matrix[unsure] = matrix[:, unsure] = np.nan
    return matrix


def nearness(grouping: Allocation) -> dict[str, tuple[Nearness | None, Nearness | None]]:
    """Client -> similarity to its own group and to the nearest other group; None if there is none or it is unknown."""
    similarities, errors = known_similarities(grouping), np.asarray(grouping.corrected_error, dtype=np.float64)
    np.fill_diagonal(similarities, np.nan)
    experts = np.array([grouping.assignment[client] for client in grouping.clients])
    learnt = np.array([client not in grouping.unsure for client in grouping.clients])
    groups = {expert: np.flatnonzero(learnt & (experts == expert)) for expert in range(grouping.num_experts)}
    found: dict[str, tuple[Nearness | None, Nearness | None]] = {}
    for place, client in enumerate(grouping.clients):
        near = {}
        for expert, members in groups.items():
            known = members[~np.isnan(similarities[place, members])]
            if known.size:
                near[expert] = Nearness(
                    expert, float(similarities[place, known].mean()), float(errors[place, known].mean())
                )
        own = near.pop(grouping.assignment[client], None)
        found[client] = own, max(near.values(), key=lambda other: other.similarity, default=None)
    return found


def certainty_table(run: RunData) -> Table | None:
    """Tabulates clients' reliability, and whether their groups were sure decisions; None without reliabilities."""
    grouping = run.grouping
    if grouping is None or grouping.corrected is None:
        return None
    places, found, rows = list(run.clients), decisions(run), []
    for client, (own, other) in nearness(grouping).items():
        reliability = grouping.reliability.get(client)
        nobody = "unknown" if client in grouping.unsure else "none"
        rows.append(
            (
                Cell(client, client=places.index(client) if client in run.clients else None),
                number(grouping.assignment[client] + 1),
                Cell("-" if reliability is None else f"{reliability:.2f}", reliability),
                Cell(found[client]),
                Cell(str(own), own.similarity) if own else Cell(nobody),
                Cell(f"{expert_name(other.expert)}: {other}", other.similarity) if other else Cell(nobody),
            )
        )
    header = ("client", "expert", "reliability", "decision", "similarity to its group", "nearest other group")
    return Table("Reliability and corrected similarity by client", header, tuple(rows))


def certainty_words(run: RunData) -> list[str]:
    """Explains reliabilities and corrected similarities, and names doubtful clients; [] without such similarities."""
    grouping = run.grouping
    if grouping is None or grouping.corrected is None:
        return []
    found = decisions(run)
    sure, close = ([c for c, is_ in found.items() if is_ == kind] for kind in ("sure", "close call"))
    text = [
        "Each client reported what each half of its rows had added to its adapter. How well halves agree, with each "
        "other and with those of other clients, gives its reliability: the share of what was learnt that is the task "
        "and not the noise of few rows. Similarities are corrected for it, so that clients of one task are at 1 "
        "whatever the number of their rows, and those of unrelated tasks at 0.",
        f"The decision was sure for {len(sure)} of {counted(len(found), 'client')}.",
    ]
    if close:
        text.append(f"A close call, compatible with more than one grouping: {listed(close, SHOWN)}.")
    if grouping.unsure:
        unsure = listed(grouping.unsure, SHOWN)
        text.append(f"Too little learnt to be compared with anyone when the groups were made: {unsure}.")
    return text


def decisions(run: RunData) -> dict[str, str]:
    """Client -> ``sure``, ``close call`` or ``not learnt yet``, of an allocation by corrected similarities."""
    grouping = run.grouping
    assert grouping is not None
    found = {}
    for client in grouping.clients:
        sure = grouping.evidence.get(client, 0.0) >= SURE
        found[client] = "not learnt yet" if client in grouping.unsure else "sure" if sure else "close call"
    return found


def doubts(run: RunData) -> list[str]:
    """Reasons why another number of groups might have been chosen as well, for an allocation by silhouettes."""
    grouping = run.grouping
    if grouping is None or not grouping.silhouettes or (grouping.num_experts == 1 and grouping.corrected is None):
        return []
    scores, chosen, least = grouping.silhouettes, grouping.num_experts, run.settings.min_silhouette
    best = scores[chosen]
    found = []
    if best < SMALL:
        found.append(
            f"the {chosen} groups stand little apart: splits of one single task reach silhouettes of about {SMALL:g} "
            f"too, and theirs is {best:.3f}"
        )
    if best - least < CLOSE:
        found.append(f"the silhouette of {chosen} groups, {best:.3f}, is barely above min_silhouette = {least:g}")
    others = [k for k in scores if k != chosen]
    if others:
        second = max(others, key=lambda k: scores[k])
        if best - scores[second] < CLOSE:
            found.append(
                f"{counted(second, 'group')} would be nearly as good as the chosen {chosen}: a silhouette of "
                f"{scores[second]:.3f} against {best:.3f}"
            )
    return found
