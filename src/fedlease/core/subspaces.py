"""Clustering of clients by the subspaces that the columns of their B span, with K chosen by the eigengap."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedlease.core.allocate import assign, kept
from fedlease.core.clustering import spectral
from fedlease.core.types import Allocation, ClientId, Tensors

__all__ = ["grouped", "nearest", "smoothed", "subspace_distance"]


def smoothed(before: Tensors | None, b: Tensors, share: float) -> dict[str, Tensor]:
    """The running mean of a client's unit B, scaled to length 1 again.

    Args:
        before: module -> running mean of earlier rounds, (out, r); None at the first.
        b: module -> B of this round, (out, r).
        share: weight of the earlier rounds, in [0, 1).
    """
    found = {}
    for module in sorted(b):
        own = _unit(b[module].double())
        found[module] = (own if before is None else _unit(share * before[module].double() + (1 - share) * own)).float()
    return found


def subspace_distance(one: Tensors, other: Tensors) -> float:
    """1 - ||U^T V||^2 / r, mean over modules, where U and V have orthonormal columns that span those of either B.

    It is 0 for equal subspaces of dimension r and 1 for orthogonal ones. A B of a lower rank has fewer columns.

    Args:
        one: module -> B, (out, r).
        other: the same modules.
    """
    found = [1 - float((_columns(one[m]).T @ _columns(other[m])).square().sum()) / one[m].shape[1] for m in one]
    return sum(found) / len(found)


def grouped(b: Mapping[ClientId, Tensors], most: int) -> Allocation:
    """Spectral clusters of clients by their subspaces.

    Similarities are exp(-d^2 / (2 s^2)) with s the median positive distance. K in 2 .. min(most, N - 1) is where the
    eigenvalues of the normalised Laplacian have their largest gap. Fewer than three clients, or equal ones, are one
    cluster.

    Args:
        b: client -> module -> B, (out, r).
        most: largest K, at least 2.
    """
    clients = sorted(b)
    d = _distances([b[client] for client in clients])
    labels = np.zeros(len(clients), dtype=int)
    apart = d[d > 0]
    if len(clients) > 2 and len(apart):
        similar = torch.exp(-d.square() / (2 * apart.median() ** 2)).numpy()
        roots = np.sqrt(similar.sum(1))
        values = np.linalg.eigvalsh(np.eye(len(clients)) - similar / np.outer(roots, roots))
        gaps = {k: values[k] - values[k - 1] for k in range(2, min(most, len(clients) - 1) + 1)}
        best = max(gaps, key=lambda k: (gaps[k], -k))
        labels = spectral(similar, best)
    return replace(assign(b, dict(zip(clients, labels.tolist(), strict=True))), distances=kept(d))


def nearest(b: Tensors, others: Mapping[ClientId, Tensors], assignment: Mapping[ClientId, int]) -> int:
    """The cluster with the smallest mean distance to a client; the first of equally near ones.

    Args:
        b: module -> B of the client, (out, r).
        others: client -> its B, for clients that have a cluster, at least one.
        assignment: client -> cluster.
    """
    found: dict[int, list[float]] = {}
    for client in sorted(others):
        found.setdefault(assignment[client], []).append(subspace_distance(b, others[client]))
    return min(sorted(found), key=lambda cluster: sum(found[cluster]) / len(found[cluster]))


def _distances(b: Sequence[Tensors]) -> Tensor:
    """:func:`subspace_distance` of all pairs, (N, N) float64 with a zero diagonal; distances below 1e-9 become 0."""
    d = torch.zeros(len(b), len(b), dtype=torch.float64)
    for module in b[0]:
        r = b[0][module].shape[1]
        columns = [_columns(own[module]) for own in b]
        all_columns = torch.cat([F.pad(own, (0, r - own.shape[1])) for own in columns], 1)  # (out, N r)
        for row, own in zip(d, columns, strict=True):
            row += 1 - (own.T @ all_columns).square().sum(0).view(-1, r).sum(1) / r
    d = (d + d.T) / (2 * len(b[0]))
    return d.where(d > 1e-9, 0).fill_diagonal_(0)


def _columns(b: Tensor) -> Tensor:
    """Orthonormal columns that span those of b, float64."""
    u, s, _ = torch.linalg.svd(b.double(), full_matrices=False)
    found: Tensor = u[:, s > s[0] * 1e-6]
    return found


def _unit(b: Tensor) -> Tensor:
    return b / float(b.norm().clamp(min=1e-12))
