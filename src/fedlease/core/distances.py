"""Cosine distances between the LoRA matrices of clients (paper, phase 1)."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from fedlease.core.types import ClientId

__all__ = [
    "IDENTICAL",
    "Matrices",
    "cosines",
    "cosines_between",
    "cosines_by_row",
    "distances",
    "product_cosines",
    "product_distances",
    "product_lengths",
    "to_distances",
    "unit_rows",
]

Matrices = Mapping[ClientId, Mapping[str, Tensor]]
"""Client -> module -> its A or its B."""

BLOCK = 1024
"""Clients whose products with all others are computed at once."""

IDENTICAL = 1e-6
"""Distances below this count as 0: rounding in float32 puts two identical clients 5e-7 apart."""


def distances(b: Matrices) -> tuple[list[ClientId], Tensor]:
    """d(i, j) = (1 / |L|) sum over modules l of (1 - cos(vec B_i^l, vec B_j^l)), for all pairs of clients.

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
    for units, zeros in unit_rows(b):
        # One module at a time, so that only one is in memory in float64 for all clients.
        if len(clients) <= BLOCK:
            similarity.addmm_(units, units.T).addmm_(zeros, zeros.T)
        else:
            # The matrix is symmetric, so half of the products suffice.
            for begin in range(0, len(clients), BLOCK):
                rows, rest = slice(begin, begin + BLOCK), slice(begin, None)
                similarity[rows, rest].addmm_(units[rows], units[rest].T).addmm_(zeros[rows], zeros[rest].T)
        modules += 1
    for begin in range(BLOCK, len(clients), BLOCK):
        similarity[begin : begin + BLOCK, :begin] = similarity[:begin, begin : begin + BLOCK].T
    return clients, to_distances(similarity, modules)


def product_distances(b: Matrices, a: Matrices) -> tuple[list[ClientId], Tensor]:
    """Distances of the products B A, see :func:`product_cosines`."""
    clients = sorted(b)
    similarity = torch.zeros(len(clients), len(clients), dtype=torch.float64)
    for cosines in product_cosines(b, a):
        similarity += cosines
    return clients, to_distances(similarity, len(b[clients[0]]))


def cosines(b: Matrices) -> Iterator[Tensor]:
    """Per module, in sorted order, the cosines between the flattened B of all pairs of sorted clients, (N, N) float64.

    Raises:
        ValueError: as :func:`distances`.
    """
    for units, zeros in unit_rows(b):
        yield units @ units.T + zeros @ zeros.T


def product_cosines(b: Matrices, a: Matrices) -> Iterator[Tensor]:
    """Cosines of the products B A, which are never formed: <B A, B' A'> = <B^T B', A A'^T>.

    Zero rows of A at the end are padding. Two clients of unequal ranks are compared by the first m = min(r, r') rows of
    A and columns of B, which both have. All clients start from the same rows of A. Compared whole, two products of one
    task with ranks r < r' would have a cosine of at most sqrt(r / r'), and clients would be grouped by rank.

    Args:
        b: client -> module -> B, (out, r).
        a: client -> module -> A, (r, in), with the same clients and modules.
    """
    clients = sorted(b)
    count = len(clients)
    for module in sorted(b[clients[0]]):
        stacked_b = torch.cat([b[client][module].double() for client in clients], 1)  # (out, N r)
        stacked_a = torch.cat([a[client][module].double() for client in clients])  # (N r, in)
        inner = (stacked_b.T @ stacked_b) * (stacked_a @ stacked_a.T)
        inner = inner.view(count, -1, count, stacked_b.shape[1] // count)  # (N, r, N, r)
        ranks = _ranks(stacked_a.view(count, inner.shape[1], -1))
        yield _by_common_rank(inner, ranks, ranks, lambda products, m: (products.diagonal().sqrt(),) * 2)


def cosines_between(b: Tensor, a: Tensor, others_b: Tensor, others_a: Tensor) -> Tensor:
    """The cosines of :func:`product_cosines` between the products B A of some clients and those of others, (n, C).

    Args:
        b: (n, out, r), float64.
        a: (n, r, in).
        others_b: (C, out, r).
        others_a: (C, r, in).
    """
    inner = torch.einsum("nor,cos->nrcs", b, others_b) * torch.einsum("nri,csi->nrcs", a, others_a)

    def lengths(products: Tensor, m: int) -> tuple[Tensor, Tensor]:
        return product_lengths(b[:, :, :m], a[:, :m]), product_lengths(others_b[:, :, :m], others_a[:, :m])

    return _by_common_rank(inner, _ranks(a), _ranks(others_a), lengths)


def _by_common_rank(
    inner: Tensor, ranks: Tensor, others: Tensor, lengths: Callable[[Tensor, int], tuple[Tensor, Tensor]]
) -> Tensor:
    """Cosines of all pairs, (n, C), each over the ranks that both clients have.

    Args:
        inner: inner products of rank-one terms, (n, r, C, r).
        ranks: rank of each of n clients, (n,).
        others: rank of each of C clients, (C,).
        lengths: function of the inner products over the first m ranks, (n, C), and m: the lengths of both sides.
    """
    common = torch.minimum(ranks.unsqueeze(1), others.unsqueeze(0))
    found = torch.zeros(common.shape, dtype=torch.float64)
    for m in common.unique().tolist():
        products = inner[:, :m, :, :m].sum((1, 3))
        found += (common == m) * _cosines(products, *lengths(products, m))
    return found


def cosines_by_row(b: Tensor, a: Tensor, others_b: Tensor, others_a: Tensor) -> Tensor:
    """Cosines between the i-th products B A of two lists of equal ranks, (n,)."""
    inner = ((b.mT @ others_b) * (a @ others_a.mT)).sum((1, 2))
    first, second = product_lengths(b, a), product_lengths(others_b, others_a)
    scale = 1 / (first.where(first > 0, 1) * second.where(second > 0, 1))
    return inner * scale + ((first == 0) & (second == 0)).double()


def product_lengths(b: Tensor, a: Tensor) -> Tensor:
    """Frobenius norms of the products B A, (n,)."""
    return ((b.mT @ b) * (a @ a.mT)).sum((1, 2)).clamp(min=0).sqrt()


def _ranks(a: Tensor) -> Tensor:
    """Rows of every A, (N, r, in), up to its last non-zero one, (N,); at least 1."""
    used = a.abs().amax(2) > 0
    return (used * torch.arange(1, a.shape[1] + 1)).amax(1).clamp(min=1)


def _cosines(inner: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Cosines from inner products, (n, C), and lengths; 1 between two zeros, 0 between a zero and another."""
    scales, zeros = zip(*((1 / each.where(each > 0, 1), (each == 0).double()) for each in (first, second)), strict=True)
    return inner * torch.outer(*scales) + torch.outer(*zeros)


def to_distances(similarity: Tensor, modules: int) -> Tensor:
    """1 - mean cosine, symmetric and in [0, 2]; the diagonal and distances below :data:`IDENTICAL` are 0.

    Args:
        similarity: sum of cosines over the modules, (N, N).
        modules: their number.
    """
    d = (similarity + similarity.T).mul_(-0.5 / modules).add_(1).clamp_(0, 2)
    d[d < IDENTICAL] = 0
    return d.fill_diagonal_(0)


def unit_rows(b: Matrices) -> Iterator[tuple[Tensor, Tensor]]:
    """Unit rows of all clients, module by module; both are sorted.

    Yields:
        The flattened matrices, (N, D_l) float64, scaled to length 1 or all zero; and 1 for an all-zero one, (N, 1).

    Raises:
        ValueError: no clients, no modules, modules or shapes that differ, or values that are not finite.
    """
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
        # Dividing by the largest entry first keeps squares of very small values from underflowing.
        largest = rows.abs().amax(1, keepdim=True)
        rows /= largest.where(largest > 0, 1)
        rows /= rows.norm(dim=1, keepdim=True).where(largest > 0, 1)
        yield rows, (largest == 0).to(torch.float64)
