"""LoRA B matrices -> distances -> average linkage -> the silhouette picks M -> who trains which expert (phase 1)."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import Tensor

from fedlease.core.aggregate import clusters
from fedlease.core.choices import Clustering, Linkage
from fedlease.core.clustering import best_k, cuts, silhouette
from fedlease.core.distances import Matrices, distances, unit_rows
from fedlease.core.types import Allocation, ClientId
from fedlease.core.wording import counted, expert_name, listed

__all__ = ["MOST_PAIRED", "allocate", "assign", "distances", "joined", "kept", "reduced", "regrouped"]

MOST_PAIRED = 2048
"""Largest number of clients for which an allocation keeps the distances of all pairs: they grow with its square."""

COPIED = 0.01
"""Distance up to which one B counts as a copy of another; warm-ups on different rows are never so close."""

SINGLETON = "expert "
"""Beginning of the warning about an expert with one client."""


def allocate(
    b: Matrices,
    *,
    max_experts: int = 8,
    min_silhouette: float = 0.05,
    linkage: Linkage = "average",
    clustering: Clustering = "hierarchical",
    num_experts: int | None = None,
    d: Tensor | None = None,
    guarded: bool = False,
) -> Allocation:
    """Groups the clients and picks the number of experts M.

    M = argmax over k in 2 .. min(max_experts, N - 1) of the mean silhouette S(k); a tie goes to the smaller k. The
    silhouette cannot score k = 1 and is small but positive on noise, so M = 1 when the best S(k) is not above
    ``min_silhouette``. N < 3 and identical clients give M = 1.

    Args:
        b: client -> module -> B of its warm-up, (out, r).
        max_experts: M_max, at least 2.
        min_silhouette: in [-1, 1]; -1 splits always, as in the paper.
        linkage: distance between two clusters.
        clustering: ``hierarchical`` as in the paper, or ``spectral`` on the similarities 1 - d / 2.
        num_experts: fixed M in 1 .. N, whatever the silhouettes say; None picks M.
        d: distances between the sorted clients to use instead of those of B, (N, N) as :func:`distances` gives them.
        guarded: whether to keep a lying client from deciding M. A warm-up that points against all others, at distances
            up to 2, makes the others look alike; a copy, at distance 0, makes all others look different. So distances
            are capped at 1, that of unrelated warm-ups, and of several copies only the first is clustered; the others
            follow it.

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
    if guarded:
        first = (d <= COPIED).int().argmax(1).tolist()
        distinct = sorted({*first})
        found = allocate(
            {clients[place]: b[clients[place]] for place in distinct},
            max_experts=max_experts,
            min_silhouette=min_silhouette,
            linkage=linkage,
            clustering=clustering,
            num_experts=None if num_experts is None else min(num_experts, len(distinct)),
            d=d[distinct][:, distinct].clamp(max=1.0),
        )
        labels = {client: found.assignment[clients[first[place]]] for place, client in enumerate(clients)}
        warnings = [warning for warning in found.warnings if not warning.startswith(SINGLETON)]
        return _allocation(labels, found.silhouettes, d, warnings)
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


def assign(b: Matrices, labels: Mapping[ClientId, int]) -> Allocation:
    """An allocation with given groups; it has the distances of B and no silhouettes.

    Args:
        b: client -> module -> B of its warm-up.
        labels: client -> any number; clients with equal numbers share an expert. Clients that are not in ``b`` are
            ignored.

    Raises:
        ValueError: as :func:`distances`, or a client has no label.
    """
    clients, d = sorted(b), None
    if len(clients) <= MOST_PAIRED:
        d = distances(b)[1]
    else:
        for _ in unit_rows(b):  # only for its checks
            pass
    missing = sorted(set(clients) - labels.keys())
    if missing:
        raise ValueError(f"labels are missing for clients {missing}")
    return _allocation({client: labels[client] for client in clients}, {}, d, _zero_module_warnings(b))


def regrouped(allocation: Allocation, assignment: Mapping[ClientId, int]) -> Allocation:
    """An allocation after clients have changed experts, with renewed warnings about experts that have one client.

    Args:
        allocation: before the change.
        assignment: client -> expert in 0 .. M - 1, for at least the clients of the allocation; others are not added.
    """
    return replace(
        allocation,
        num_experts=max(assignment.values()) + 1,
        assignment={client: assignment[client] for client in allocation.assignment},
        warnings=(*(w for w in allocation.warnings if not w.startswith(SINGLETON)), *_singletons(assignment)),
    )


def joined(allocation: Allocation, least: int) -> Allocation:
    """Joins clusters until each has at least ``least`` clients, or all clients are in one.

    The smallest cluster joins the one with the smallest mean distance to it. Without kept distances, which is so with
    more than :data:`MOST_PAIRED` clients, it joins the largest one.
    """
    groups = [allocation.members(expert) for expert in range(allocation.num_experts)]
    told = list[str]()
    while len(groups) > 1 and len(small := min(groups, key=len)) < least:
        others = [group for group in groups if group is not small]
        rows = [allocation.clients.index(client) for client in small]
        near = min(others, key=lambda group: _between(allocation, rows, group))
        told.append(
            f"{listed(small, 3)} {'was' if len(small) == 1 else 'were'} joined with {listed(near, 3)}: a cluster needs "
            f"{least} clients"
        )
        groups = [sorted(small + near) if group is near else group for group in others]
    if not told:
        return allocation
    labels = {client: number for number, group in enumerate(groups) for client in group}
    after = regrouped(allocation, _number_by_smallest_client(labels))
    return replace(after, warnings=(*after.warnings, *told))


def _between(allocation: Allocation, rows: list[int], group: list[ClientId]) -> float:
    """Mean distance between the clients of some rows and a group; without distances, the larger group is nearer."""
    if allocation.distances is None:
        return -float(len(group))
    columns = [allocation.clients.index(client) for client in group]
    return float(allocation.distances[rows][:, columns].mean())


def reduced(allocation: Allocation, clients: Collection[ClientId]) -> Allocation:
    """An allocation without some of its clients. Experts keep their numbers, even those without any client left."""
    rest = [client for client in allocation.clients if client not in clients]
    rows = [allocation.clients.index(client) for client in rest]

    def square(matrix: Tensor | None) -> Tensor | None:
        return None if matrix is None else matrix[rows][:, rows]

    return replace(
        allocation,
        assignment={client: allocation.assignment[client] for client in rest},
        distances=square(allocation.distances),
        clients=rest,
        reliability={client: s for client, s in allocation.reliability.items() if client in rest},
        corrected=square(allocation.corrected),
        corrected_error=square(allocation.corrected_error),
        evidence={client: found for client, found in allocation.evidence.items() if client in rest},
        unsure=tuple(client for client in allocation.unsure if client in rest),
    )


def kept(d: Tensor | None) -> Tensor | None:
    """The distances, or None where there are too many clients to keep them, see :data:`MOST_PAIRED`."""
    return None if d is None or len(d) > MOST_PAIRED else d


def _allocation(
    labels: Mapping[ClientId, int], silhouettes: dict[int, float], d: Tensor | None, warnings: list[str]
) -> Allocation:
    assignment = _number_by_smallest_client(labels)
    warnings += _singletons(assignment)
    return Allocation(max(assignment.values()) + 1, assignment, silhouettes, kept(d), sorted(labels), tuple(warnings))


def _singletons(assignment: Mapping[ClientId, int]) -> list[str]:
    found = clusters(assignment, assignment) if len(set(assignment.values())) > 1 else {}
    return [
        f"{expert_name(expert)} has one client, {members[0]!r}: it is trained without aggregation"
        for expert, members in found.items()
        if len(members) == 1
    ]


def _number_by_smallest_client(labels: Mapping[ClientId, int]) -> dict[ClientId, int]:
    """Numbers experts by each cluster's smallest client, so that ids do not depend on the clustering library."""
    ids: dict[int, int] = {}
    return {client: ids.setdefault(labels[client], len(ids)) for client in sorted(labels)}


def _zero_module_warnings(b: Matrices) -> list[str]:
    clients = [client for client in sorted(b) if any(not bool(matrix.any()) for matrix in b[client].values())]
    if not clients:
        return []
    modules = sorted({module for client in clients for module, matrix in b[client].items() if not bool(matrix.any())})
    where = f"{counted(len(modules), 'module')} ({listed(modules, 3)})"
    return [f"B is all zero and has no direction for {counted(len(clients), 'client')} ({listed(clients)}) in {where}"]
