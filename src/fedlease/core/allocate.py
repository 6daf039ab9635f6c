"""LoRA B matrices -> distances -> average linkage -> the silhouette picks M -> who trains which expert (phase 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster
from scipy.cluster.hierarchy import linkage as build_linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import silhouette_score
from torch import Tensor

from fedlease.core.codec import serialisable
from fedlease.core.types import Allocation, ClientId

__all__ = ["Centres", "Linkage", "Placement", "allocate", "centres", "distances", "place"]

Linkage = Literal["average", "complete", "single"]
BMatrices = Mapping[ClientId, Mapping[str, Tensor]]

IDENTICAL = 1e-6
"""Distances below this are rounding: float32 makes two identical clients 5e-7 apart."""


def distances(b: BMatrices) -> tuple[list[ClientId], Tensor]:
    """d(i, j) = (1 / |L|) sum over modules l of (1 - cos(vec B_i^l, vec B_j^l)), for all pairs in one matrix product.

    A module whose B is all zero has no direction: its distance is 0 to another zero B and 1 to a non-zero one.

    Args:
        b: client -> module -> B, (out, r); every client has the same modules and shapes.

    Returns:
        The clients, sorted, and d, (N, N) float64 in [0, 2], symmetric, with a zero diagonal.

    Raises:
        ValueError: no clients, no modules, modules or shapes that differ, or values that are not finite.
    """
    clients, units, zeros = _unit_rows(b)
    similarity = (units @ units.T + zeros @ zeros.T) / zeros.shape[1]
    d = (1 - (similarity + similarity.T) / 2).clamp(0, 2)
    d[d < IDENTICAL] = 0
    d.fill_diagonal_(0)
    return clients, d


def allocate(
    b: BMatrices, *, max_experts: int = 8, min_silhouette: float = 0.05, linkage: Linkage = "average"
) -> Allocation:
    """Groups the clients and picks the number of experts M.

    M = argmax over k in 2 .. min(max_experts, N - 1) of the mean silhouette S(k); a tie goes to the smaller k. The
    silhouette cannot score k = 1 and is small but positive on noise, so M = 1 when the best S(k) is not above
    ``min_silhouette``. N < 3 and identical clients give M = 1.

    Args:
        b: client -> module -> B of its warm-up, (out, r).
        max_experts: M_max, at least 2.
        min_silhouette: in [-1, 1]; -1 splits always, as in the paper.
        linkage: of the agglomerative clustering.

    Raises:
        ValueError: as :func:`distances`, or a parameter is out of range.
    """
    if max_experts < 2:
        raise ValueError(f"max_experts must be at least 2, received {max_experts}")
    if not -1 <= min_silhouette <= 1:
        raise ValueError(f"min_silhouette must be in [-1, 1], received {min_silhouette}")
    clients, d = distances(b)
    warnings = _zero_module_warnings(b)
    labels = {client: 0 for client in clients}
    silhouettes: dict[int, float] = {}
    if len(clients) >= 3 and bool((d > 0).any()):
        cuts = _cuts(d, max_experts, linkage)
        silhouettes = {k: score for k, (score, _) in cuts.items()}
        best = _best_k(silhouettes)
        if best is not None and (silhouettes[best] > min_silhouette or min_silhouette == -1):
            labels = dict(zip(clients, cuts[best][1].tolist(), strict=True))
        elif best is not None:
            warnings.append(
                f"no grouping separates the clients: the best silhouette is {silhouettes[best]:.3f} at k = {best}, "
                f"not above min_silhouette = {min_silhouette}; one expert is trained by all"
            )
    assignment = _number_by_smallest_client(labels)
    num_experts = max(assignment.values()) + 1
    for expert in range(num_experts if num_experts > 1 else 0):
        members = [client for client in clients if assignment[client] == expert]
        if len(members) == 1:
            warnings.append(f"expert {expert} has one client, {members[0]!r}: it is trained without aggregation")
    return Allocation(num_experts, assignment, silhouettes, d, clients, tuple(warnings))


@serialisable
@dataclass(frozen=True)
class Centres:
    """What is kept of the warm-up to place a client that comes later: never an expert's current B, whose A drifted.

    Attributes:
        modules: sorted.
        units: (M, D) float64, mean over a cluster of the clients' unit rows.
        zeros: (M, |L|) float64, share of a cluster's clients whose B of a module is all zero.
        reach: per expert, the largest leave-one-out distance of a member to the rest; NaN for a singleton.
    """

    modules: tuple[str, ...]
    units: Tensor
    zeros: Tensor
    reach: tuple[float, ...]


@dataclass(frozen=True)
class Placement:
    """Where a late client belongs.

    Attributes:
        expert: the nearest.
        distances: to every expert, in [0, 2].
        margin: second smallest minus smallest distance; infinite for M = 1.
        unlike: farther from the nearest expert than any of that expert's own members is from the rest (for a
            singleton: than any member of any cluster); False where nothing can be compared.
    """

    expert: int
    distances: tuple[float, ...]
    margin: float
    unlike: bool


def centres(b: BMatrices, allocation: Allocation) -> Centres:
    """The mean warm-up vectors of every cluster; see :class:`Centres`."""
    clients, units, zeros = _unit_rows(b)
    rows = [[clients.index(client) for client in allocation.members(e)] for e in range(allocation.num_experts)]
    reach = []
    for members in rows:
        inner = allocation.distances[members][:, members]
        reach.append(float(inner.sum(1).max()) / (len(members) - 1) if len(members) > 1 else float("nan"))
    return Centres(
        modules=tuple(sorted(next(iter(b.values())))),
        units=torch.stack([units[members].mean(0) for members in rows]),
        zeros=torch.stack([zeros[members].mean(0) for members in rows]),
        reach=tuple(reach),
    )


def place(b: Mapping[str, Tensor], known: Centres) -> Placement:
    """Places one late client by d(i, c) = 1 - u_i . mean over c of u_j / |L|, from its own warm-up B.

    Raises:
        ValueError: its modules or shapes are not those of the centres.
    """
    if tuple(sorted(b)) != known.modules:
        raise ValueError(f"B must hold the modules of the run, received {sorted(b)}, expected {list(known.modules)}")
    _, units, zeros = _unit_rows({"newcomer": b})
    if units.shape[1] != known.units.shape[1]:
        raise ValueError(f"B has {units.shape[1]} values, the run's clusters have {known.units.shape[1]}")
    d = (1 - (known.units @ units[0] + known.zeros @ zeros[0]) / len(known.modules)).clamp(0, 2)
    d[d < IDENTICAL] = 0
    ordered = d.sort().values
    expert = int(d.argmin())
    finite = [reach for reach in known.reach if reach == reach]  # NaN marks a singleton
    reach = known.reach[expert] if known.reach[expert] == known.reach[expert] else max(finite, default=float("inf"))
    margin = float(ordered[1] - ordered[0]) if len(ordered) > 1 else float("inf")
    return Placement(expert, tuple(d.tolist()), margin, unlike=float(d[expert]) > reach)


def _unit_rows(b: BMatrices) -> tuple[list[ClientId], Tensor, Tensor]:
    """Clients sorted; (N, D) float64 with every module's part at length 1 or 0; (N, |L|) indicator of zero modules."""
    if not b:
        raise ValueError("distances need at least one client, received none")
    clients = sorted(b)
    modules = sorted(b[clients[0]])
    if not modules:
        raise ValueError(f"distances need at least one module, client {clients[0]!r} has none")
    rows, zeros = [], []
    for client in clients:
        if sorted(b[client]) != modules:
            raise ValueError(f"client {client!r} has modules {sorted(b[client])}, client {clients[0]!r} has {modules}")
        parts = []
        for module in modules:
            matrix = b[client][module].detach().cpu().to(torch.float64)
            if matrix.shape != b[clients[0]][module].shape:
                raise ValueError(
                    f"{module}: B of client {client!r} has shape {tuple(matrix.shape)}, "
                    f"B of client {clients[0]!r} has {tuple(b[clients[0]][module].shape)}"
                )
            if not bool(torch.isfinite(matrix).all()):
                raise ValueError(f"{module}: B of client {client!r} holds values that are NaN or infinite")
            # Scaled by the largest entry first, so that very small values do not underflow when squared.
            largest = matrix.abs().max()
            scaled = matrix / largest if largest > 0 else matrix
            norm = scaled.norm()
            parts.append((scaled / norm if norm > 0 else scaled).flatten())
            zeros.append(1.0 if norm == 0 else 0.0)
        rows.append(torch.cat(parts))
    return clients, torch.stack(rows), torch.tensor(zeros, dtype=torch.float64).view(len(clients), len(modules))


def _cuts(d: Tensor, max_experts: int, linkage: Linkage) -> dict[int, tuple[float, np.ndarray]]:
    """k -> (S(k), labels), from one linkage; a k that ties make impossible is left out."""
    matrix = d.numpy()
    tree = build_linkage(squareform(matrix, checks=False), method=linkage)
    cuts = {}
    for k in range(2, min(max_experts, len(matrix) - 1) + 1):
        labels = fcluster(tree, t=k, criterion="maxclust")
        if len(set(labels.tolist())) == k:
            cuts[k] = (float(silhouette_score(matrix, labels, metric="precomputed")), labels)
    return cuts


def _best_k(silhouettes: Mapping[int, float]) -> int | None:
    best: int | None = None
    for k in sorted(silhouettes):
        # A gain within rounding is a tie, and a tie goes to the smaller k.
        if best is None or silhouettes[k] > silhouettes[best] + 1e-12:
            best = k
    return best


def _number_by_smallest_client(labels: Mapping[ClientId, int]) -> dict[ClientId, int]:
    """Expert ids that do not depend on the clustering library: ordered by each cluster's smallest client."""
    ids: dict[int, int] = {}
    return {client: ids.setdefault(labels[client], len(ids)) for client in sorted(labels)}


def _zero_module_warnings(b: BMatrices) -> list[str]:
    clients = [client for client in sorted(b) if any(not bool(matrix.any()) for matrix in b[client].values())]
    if not clients:
        return []
    modules = sorted({module for client in clients for module, matrix in b[client].items() if not bool(matrix.any())})
    return [f"B is all zero, without direction, for clients {clients} in {len(modules)} modules: {modules[:3]}..."]
