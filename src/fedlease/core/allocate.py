"""LoRA B matrices -> distances -> average linkage -> the silhouette picks M -> who trains which expert (phase 1)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlease.core.clustering import Clustering, Linkage, best_k, cuts, silhouette
from fedlease.core.codec import serialisable
from fedlease.core.types import Allocation, ClientId

__all__ = [
    "Centres",
    "Clustering",
    "Linkage",
    "Placement",
    "allocate",
    "assign",
    "centres",
    "distances",
    "place",
    "product_distances",
]

BMatrices = Mapping[ClientId, Mapping[str, Tensor]]

IDENTICAL = 1e-6
"""Distances below this are rounding: float32 makes two identical clients 5e-7 apart."""


def distances(b: BMatrices) -> tuple[list[ClientId], Tensor]:
    """d(i, j) = (1 / |L|) sum over modules l of (1 - cos(vec B_i^l, vec B_j^l)), for all pairs in one matrix product
    per module.

    A module whose B is all zero has no direction: its distance is 0 to another zero B and 1 to a non-zero one.

    Args:
        b: client -> module -> B, (out, r); every client has the same modules and shapes.

    Returns:
        The clients, sorted, and d, (N, N) float64 in [0, 2], symmetric, with a zero diagonal.

    Raises:
        ValueError: no clients, no modules, modules or shapes that differ, or values that are not finite.
    """
    clients = sorted(b)
    similarity = torch.zeros(len(clients), len(clients), dtype=torch.float64)
    modules = 0
    for units, zeros in _unit_modules(b):
        # Module by module, so that no more than one module of all clients is held in float64.
        similarity.addmm_(units, units.T).addmm_(zeros, zeros.T)
        modules += 1
    return clients, _to_distances(similarity, modules)


def product_distances(b: BMatrices, a: BMatrices) -> tuple[list[ClientId], Tensor]:
    """As :func:`distances`, of the products B A, which are never formed: <B A, B' A'> = <B^T B', A A'^T>.

    Args:
        b: client -> module -> B, (out, r).
        a: client -> module -> A, (r, in), with the same clients and modules.
    """
    clients = sorted(b)
    count, modules = len(clients), sorted(b[clients[0]])
    similarity = torch.zeros(count, count, dtype=torch.float64)
    for module in modules:
        stacked_b = torch.cat([b[client][module].double() for client in clients], 1)  # (out, N r)
        stacked_a = torch.cat([a[client][module].double() for client in clients])  # (N r, in)
        inner = (stacked_b.T @ stacked_b) * (stacked_a @ stacked_a.T)
        inner = inner.view(count, -1, count, stacked_b.shape[1] // count).sum((1, 3))  # (N, N)
        norms = inner.diagonal().sqrt()
        zero = (norms == 0).double()
        scale = 1 / norms.where(norms > 0, 1)
        similarity += inner * torch.outer(scale, scale) + torch.outer(zero, zero)
    return clients, _to_distances(similarity, len(modules))


def allocate(
    b: BMatrices,
    *,
    max_experts: int = 8,
    min_silhouette: float = 0.05,
    linkage: Linkage = "average",
    clustering: Clustering = "hierarchical",
    num_experts: int | None = None,
    d: Tensor | None = None,
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
        clustering: ``hierarchical`` as in the paper, or ``spectral`` on the similarities 1 - d / 2.
        num_experts: this M whatever the silhouettes say, in 1 .. N.
        d: other distances between the sorted clients than those of B, (N, N) as :func:`distances` gives them.

    Raises:
        ValueError: as :func:`distances`, or a parameter is out of range.
    """
    if max_experts < 2:
        raise ValueError(f"max_experts must be at least 2, received {max_experts}")
    if not -1 <= min_silhouette <= 1:
        raise ValueError(f"min_silhouette must be in [-1, 1], received {min_silhouette}")
    clients = sorted(b)
    if num_experts is not None and not 1 <= num_experts <= len(clients):
        raise ValueError(f"num_experts must be in 1 .. {len(clients)}, the number of clients, received {num_experts}")
    d = distances(b)[1] if d is None else d
    warnings = _zero_module_warnings(b)
    labels = {client: 0 for client in clients}
    silhouettes: dict[int, float] = {}
    if len(clients) >= 3 and bool((d > 0).any()):
        scored = cuts(d, range(2, min(max_experts, len(clients) - 1) + 1), linkage, clustering)
        silhouettes = {k: silhouette(d, cut) for k, cut in scored.items()}
        best = best_k(silhouettes)
        if num_experts is None and best is not None:
            if silhouettes[best] > min_silhouette or min_silhouette == -1:
                labels = dict(zip(clients, scored[best].tolist(), strict=True))
            else:
                warnings.append(
                    f"no grouping separates the clients: the best silhouette is {silhouettes[best]:.3f} at k = {best}, "
                    f"not above min_silhouette = {min_silhouette}; one expert is trained by all"
                )
    if num_experts is not None:
        fixed = cuts(d, [num_experts], linkage, clustering)
        if num_experts not in fixed:
            raise ValueError(f"num_experts: ties among the clients leave no grouping into {num_experts}")
        labels = dict(zip(clients, fixed[num_experts].tolist(), strict=True))
    return _allocation(labels, silhouettes, d, warnings)


def assign(b: BMatrices, labels: Mapping[ClientId, int]) -> Allocation:
    """An allocation that was decided elsewhere; distances are still those of B, and no silhouette is taken.

    Args:
        b: client -> module -> B of its warm-up.
        labels: client -> any number; equal numbers share an expert. Clients without a warm-up are left out.

    Raises:
        ValueError: as :func:`distances`, or a client has no label.
    """
    clients, d = distances(b)
    missing = sorted(set(clients) - labels.keys())
    if missing:
        raise ValueError(f"labels are missing for clients {missing}")
    return _allocation({client: labels[client] for client in clients}, {}, d, _zero_module_warnings(b))


def _allocation(
    labels: Mapping[ClientId, int], silhouettes: dict[int, float], d: Tensor, warnings: list[str]
) -> Allocation:
    clients = sorted(labels)
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
    row = {client: number for number, client in enumerate(sorted(b))}
    rows = [[row[client] for client in allocation.members(e)] for e in range(allocation.num_experts)]
    reach = []
    for members in rows:
        inner = allocation.distances[members][:, members]
        reach.append(float(inner.sum(1).max()) / (len(members) - 1) if len(members) > 1 else float("nan"))
    units, zeros = [], []
    for unit, zero in _unit_modules(b):
        units.append(torch.stack([unit[members].mean(0) for members in rows]))
        zeros.append(torch.stack([zero[members].mean(0) for members in rows]))
    return Centres(
        modules=tuple(sorted(next(iter(b.values())))),
        units=torch.cat(units, 1),
        zeros=torch.cat(zeros, 1),
        reach=tuple(reach),
    )


def place(b: Mapping[str, Tensor], known: Centres) -> Placement:
    """Places one late client by d(i, c) = 1 - u_i . mean over c of u_j / |L|, from its own warm-up B.

    Raises:
        ValueError: its modules or shapes are not those of the centres.
    """
    if tuple(sorted(b)) != known.modules:
        raise ValueError(f"B must hold the modules of the run, received {sorted(b)}, expected {list(known.modules)}")
    parts = list(_unit_modules({"newcomer": b}))
    unit, zero = torch.cat([part[0] for part in parts], 1)[0], torch.cat([part[1] for part in parts], 1)[0]
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


def _to_distances(similarity: Tensor, modules: int) -> Tensor:
    """1 - mean cosine, symmetric, in [0, 2], with rounding and the diagonal at 0."""
    d = (similarity + similarity.T).mul_(-0.5 / modules).add_(1).clamp_(0, 2)
    d[d < IDENTICAL] = 0
    return d.fill_diagonal_(0)


def _unit_modules(b: BMatrices) -> Iterator[tuple[Tensor, Tensor]]:
    """Per module in sorted order: (N, D_l) float64, rows of length 1 or 0; (N, 1) indicator of zero matrices."""
    if not b:
        raise ValueError("distances need at least one client, received none")
    clients = sorted(b)
    modules = sorted(b[clients[0]])
    if not modules:
        raise ValueError(f"distances need at least one module, client {clients[0]!r} has none")
    for client in clients:
        if sorted(b[client]) != modules:
            raise ValueError(f"client {client!r} has modules {sorted(b[client])}, client {clients[0]!r} has {modules}")
    for module in modules:
        first = b[clients[0]][module]
        rows = torch.empty(len(clients), first.numel(), dtype=torch.float64)
        for row, client in zip(rows, clients, strict=True):
            matrix = b[client][module].detach()
            if matrix.shape != first.shape:
                raise ValueError(
                    f"{module}: B of client {client!r} has shape {tuple(matrix.shape)}, "
                    f"B of client {clients[0]!r} has {tuple(first.shape)}"
                )
            row.copy_(matrix.flatten())
            if not bool(torch.isfinite(row).all()):
                raise ValueError(f"{module}: B of client {client!r} holds values that are NaN or infinite")
        # Scaled by the largest entry first, so that very small values do not underflow when squared.
        largest = rows.abs().amax(1, keepdim=True)
        rows /= largest.where(largest > 0, 1)
        rows /= rows.norm(dim=1, keepdim=True).where(largest > 0, 1)
        yield rows, (largest == 0).to(torch.float64)


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
