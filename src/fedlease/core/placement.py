"""Placement of a client that comes after the allocation: with the expert whose warm-ups its own is nearest to."""

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
    """Means of warm-ups by which late clients are placed; an expert's current B would not do, as its A has drifted.

    Attributes:
        modules: sorted.
        units: (M, D) float64, mean over a cluster of the clients' unit rows.
        zeros: (M, |L|) float64, share of a cluster's clients whose B of a module is all zero.
        reach: per expert, the largest leave-one-out distance of a member to the rest; NaN for a singleton.
        columns: of every B, so many at the beginning are compared; None: all.
    """

    modules: tuple[str, ...]
    units: Tensor
    zeros: Tensor
    reach: tuple[float, ...]
    columns: int | None = None

    def place(self, tensors: Tensors) -> "Placement":
        """Places a client by the B of its warm-up, which may be in the parts of halves; see :func:`place`."""
        return place(b_matrices(whole(tensors)), self)

    def chosen(self, experts: Sequence[int]) -> "Centroids":
        """Those of some experts, in the given order, which numbers them anew."""
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
        unlike: farther from the nearest expert than any of that expert's own members is from the rest (for a
            singleton: than any member of any cluster); False where nothing can be compared. On the corrected scale:
            another task than every expert's, or none that is known.
        similarities: corrected, to every expert: 1 for its task, 0 for an unrelated one, None where unknown; distances
            are 1 less these. () where B alone was compared.
        errors: their standard errors.
        reliability: how much of its warm-up is its task; 0 where its rows were too few to tell.
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
        """Describes its corrected similarity to the expert."""
        similarity, error = self.similarities[self.expert], self.errors[self.expert]
        if similarity is None or error is None:
            return "unknown"
        # Two errors tell 1, the same task, from 0, an unrelated one.
        kind = "another task" if self.unlike else "same task" if 2 * error < similarity else "most likely the same task"
        return f"{kind}: {similarity:.2f} ± {error:.2f}"

    @property
    def why_out(self) -> str:
        """Why a client that is unlike every expert is not placed."""
        if self.learnt:
            return f"it is unlike every expert, nearest is {self}"
        return f"it has not learnt enough to tell who has its task (reliability {self.reliability:.2f})"


def centroids(b: Matrices, assignment: Mapping[ClientId, int], columns: int | None = None) -> Centroids:
    """The mean warm-up vectors of every cluster.

    Args:
        b: client -> module -> B of its warm-up, (out, r).
        assignment: client -> expert in 0 .. M - 1, of at least these clients.
        columns: of every B, so many at the beginning are compared, the smallest rank of a client; None: all.
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
