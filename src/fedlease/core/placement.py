"""Placement of a client that comes after the allocation: with the expert whose warm-ups are nearest to its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlease.core.adapters import b_matrices, whole
from fedlease.core.aggregate import clusters
from fedlease.core.codec import serialisable
from fedlease.core.distances import IDENTICAL, Matrices, to_distances, unit_rows
from fedlease.core.types import ClientId, Tensors
from fedlease.core.wording import expert_name

__all__ = ["Centroids", "Placement", "centroids", "place"]


@serialisable
@dataclass(frozen=True)
class Centroids:
    """Mean warm-ups of the clusters, by which late clients are placed.

    The current B of an expert cannot serve, because its A no longer is the one that warm-ups start from.

    Attributes:
        modules: sorted.
        units: (M, D) float64, mean over a cluster of its clients' unit rows.
        zeros: (M, |L|) float64, share of a cluster's clients whose B of a module is all zero.
        reach: per expert, the largest mean distance of a member to the other members; NaN for a single client.
        columns: number of leading columns of every B that are compared; None: all.
    """

    modules: tuple[str, ...]
    units: Tensor
    zeros: Tensor
    reach: tuple[float, ...]
    columns: int | None = None

    def place(self, tensors: Tensors) -> "Placement":
        """Places a client by the A and B of its warm-up, which may be on two halves; see :func:`place`."""
        return place(b_matrices(whole(tensors)), self)

    def chosen(self, experts: Sequence[int]) -> "Centroids":
        """The centroids of some experts, renumbered in the given order."""
        rows = list(experts)
        reach = tuple(self.reach[expert] for expert in rows)
        return Centroids(self.modules, self.units[rows], self.zeros[rows], reach, self.columns)


@dataclass(frozen=True)
class Placement:
    """The expert of a late client, with the evidence.

    Attributes:
        expert: the nearest.
        distances: to every expert, in [0, 2].
        margin: second smallest minus smallest distance; infinite for M = 1.
        unlike: whether the client is farther from the nearest expert than any of its members is from the other members
            (or, if it has one member, than any member of any cluster); False where no cluster has two. With corrected
            similarities: whether the client has another task than every expert, or an unknown one.
        similarities: corrected, with every expert: 1 for the same task, 0 for an unrelated one, None where unknown;
            distances are then 1 minus these. () where only B was compared.
        errors: standard errors of ``similarities``.
        reliability: share of the client's task in its warm-up; 0 where it had too few rows to tell.
        learnt: whether it has learnt enough to be compared.
    """

    expert: int
    distances: tuple[float, ...]
    margin: float
    unlike: bool
    similarities: tuple[float | None, ...] = ()
    errors: tuple[float | None, ...] = ()
    reliability: float = 0.0
    learnt: bool = True

    def __str__(self) -> str:
        name = expert_name(self.expert)
        if not self.similarities:
            far = ", farther than any of its members" * self.unlike
            return f"{name} at distance {self.distances[self.expert]:.3f}, margin {self.margin:.3f}{far}"
        if not self.learnt:
            return f"{name}, not learnt yet (reliability {self.reliability:.2f})"
        return f"{name}, {self.likeness}"

    @property
    def likeness(self) -> str:
        """The corrected similarity with the expert, in words."""
        similarity, error = self.similarities[self.expert], self.errors[self.expert]
        if similarity is None or error is None:
            return "unknown"
        # A similarity above two standard errors is not that of an unrelated task, 0.
        kind = "another task" if self.unlike else "same task" if 2 * error < similarity else "most likely the same task"
        return f"{kind}: {similarity:.2f} ± {error:.2f}"

    @property
    def why_out(self) -> str:
        """The reason why a client that is unlike every expert is not placed."""
        if self.learnt:
            return f"it is unlike every expert; the nearest is {self}"
        return f"it has not learnt enough to tell who has its task (reliability {self.reliability:.2f})"


def centroids(b: Matrices, assignment: Mapping[ClientId, int], columns: int | None = None) -> Centroids:
    """The mean warm-up vectors of every cluster.

    Args:
        b: client -> module -> B of its warm-up, (out, r).
        assignment: client -> expert in 0 .. M - 1, of at least these clients.
        columns: number of leading columns of every B that are compared, the smallest rank of a client; None: all.
    """
    b = {client: _first(own, columns) for client, own in b.items()}
    row = {client: number for number, client in enumerate(sorted(b))}
    rows = [[row[client] for client in members] for members in clusters(b, assignment).values()]
    similarities = [torch.zeros(len(members), len(members), dtype=torch.float64) for members in rows]
    units, zeros = [], []
    for unit, zero in unit_rows(b):
        units.append(torch.stack([unit[members].mean(0) for members in rows]))
        zeros.append(torch.stack([zero[members].mean(0) for members in rows]))
        for members, similarity in zip(rows, similarities, strict=True):
            similarity.addmm_(unit[members], unit[members].T).addmm_(zero[members], zero[members].T)
    reach = []
    for similarity in similarities:
        inner, others = to_distances(similarity, len(units)), len(similarity) - 1
        reach.append(float(inner.sum(1).max()) / others if others else float("nan"))
    return Centroids(
        modules=tuple(sorted(next(iter(b.values())))),
        units=torch.cat(units, 1),
        zeros=torch.cat(zeros, 1),
        reach=tuple(reach),
        columns=columns,
    )


def _first(b: Mapping[str, Tensor], columns: int | None) -> dict[str, Tensor]:
    return {module: matrix[:, :columns] for module, matrix in b.items()}


def place(b: Mapping[str, Tensor], known: Centroids) -> Placement:
    """Places one late client by d(i, c) = 1 - u_i . mean over c of u_j / |L|, from its own warm-up B.

    Raises:
        ValueError: its modules or shapes are not those of the centroids.
    """
    if tuple(sorted(b)) != known.modules:
        raise ValueError(f"B must hold the modules of the run, received {sorted(b)}, expected {list(known.modules)}")
    rows = list(unit_rows({"newcomer": _first(b, known.columns)}))
    unit, zero = torch.cat([u for u, _ in rows], 1)[0], torch.cat([z for _, z in rows], 1)[0]
    if len(unit) != known.units.shape[1]:
        raise ValueError(f"B has {len(unit)} values, the run's clusters have {known.units.shape[1]}")
    d = (1 - (known.units @ unit + known.zeros @ zero) / len(known.modules)).clamp(0, 2)
    d[d < IDENTICAL] = 0
    ordered = d.sort().values
    expert = int(d.argmin())
    finite = [reach for reach in known.reach if reach == reach]  # NaN marks a singleton
    reach = known.reach[expert] if known.reach[expert] == known.reach[expert] else max(finite, default=float("inf"))
    margin = float(ordered[1] - ordered[0]) if len(ordered) > 1 else float("inf")
    return Placement(expert, tuple(d.tolist()), margin, unlike=float(d[expert]) > reach)
