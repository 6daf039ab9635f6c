"""Low-rank products as LoRA pairs: truncated or padded to a rank, and averaged over clients."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fedlease.core.aggregate import weighted_mean
from fedlease.core.seeds import generator
from fedlease.core.types import ClientModel, TensorName, Tensors

__all__ = [
    "at_rank",
    "best_pair",
    "cored",
    "first_ranks",
    "orthonormal",
    "padded",
    "product_mean",
    "product_norm",
    "singular",
    "tail_norm",
    "truncate",
]

WHOLE = 512
"""Largest smaller side of a matrix for which all singular values are computed."""

SPARSE = 0.1
"""Share of non-zero entries below which a matrix is multiplied as a sparse one."""

_CUTS: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""B -> rank -> its A, the cut A and the cut B, so that all clients of a rank share one copy, as long as B lives."""


def truncate(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of the product b a by a pair of a given rank, balanced: U sqrt(S) and sqrt(S) V^T.

    With k below out and in, only small matrices are decomposed, never one of (out, in). Where the rank of the product
    is below ``rank``, the missing directions are zero in b and have length 1 in a: with zeros in both, training could
    never change them.

    Args:
        a: (k, in).
        b: (out, k).
        rank: of the result, at most k, in and out.

    Returns:
        a (rank, in) and b (out, rank), in the dtype of the arguments, which should be float64.
    """
    qb, rb = torch.linalg.qr(b)
    qa, ra = torch.linalg.qr(a.T)
    core = rb @ ra.T  # (min(out, k), min(in, k))
    u, s, vh = torch.linalg.svd(core, full_matrices=False)
    rows, columns = _balanced(u[:, :rank], s[:rank], vh[:rank], max(core.shape))
    return rows @ qa.T, qb @ columns


def best_pair(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Truncates a matrix (out, in), in float64, as :func:`truncate` does a product.

    For few directions of a large matrix, a Lanczos iteration computes only these, to machine precision.
    """
    least = min(matrix.shape)
    if least <= WHOLE or 4 * rank > least or not bool(matrix.any()):
        return truncate(torch.eye(matrix.shape[1], dtype=matrix.dtype), matrix, rank)
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    start = torch.randn(least, generator=generator(0, "best pair"), dtype=matrix.dtype)
    values: Any = matrix.numpy()
    if int(matrix.count_nonzero()) < SPARSE * matrix.numel():
        values = csr_array(values)
    found = svds(values, k=rank, v0=start.numpy())
    u, s, vh = (torch.from_numpy(np.ascontiguousarray(one)) for one in found)
    order = s.argsort(descending=True)
    return _balanced(u[:, order], s[order], vh[order], max(matrix.shape))


def _balanced(u: Tensor, s: Tensor, vh: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Rows (rank, in) and columns (out, rank), each with the root of the singular values, as in :func:`truncate`."""
    root = s.sqrt()
    lacking = s <= s[0] * torch.finfo(s.dtype).eps * size
    return root.where(~lacking, 1).unsqueeze(1) * vh, u * root.where(~lacking, 0)


def singular(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values of the product b a, with their right and left singular vectors.

    Args:
        a: (k, in).
        b: (out, k).
        rank: number of singular values, at most k, in and out.

    Returns:
        V^T (rank, in), S (rank,) and U (out, rank), in the dtype of the arguments, which should be float64.
    """
    qb, rb = torch.linalg.qr(b)
    qa, ra = torch.linalg.qr(a.T)
    u, s, vh = torch.linalg.svd(rb @ ra.T, full_matrices=False)
    return vh[:rank] @ qa.T, s[:rank], qb @ u[:, :rank]


def orthonormal(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Rewrites the product b a = U S V^T as the pair V^T, whose rows are orthonormal, and U S.

    Args:
        a: (r, in), r at most in.
        b: (out, r), r at most out.

    Returns:
        V^T (r, in) and U S (out, r), in the dtype of the arguments, which should be float64.
    """
    qa, ra = torch.linalg.qr(a.T)  # (in, r), (r, r)
    u, s, vh = torch.linalg.svd(b @ ra.T, full_matrices=False)  # (out, r), (r,), (r, r)
    return vh @ qa.T, u * s


def cored(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Factors the product b a as orthonormal columns times a core times orthonormal rows.

    Args:
        a: (r, in), r at most in.
        b: (out, r), r at most out.

    Returns:
        Rows (r, in), core (r, r) and columns (out, r), in the dtype of the arguments, which should be float64.
    """
    rows, b = orthonormal(a, b)
    columns, core = torch.linalg.qr(b)
    return rows, core, columns


def padded(tensors: Tensors, rank: int) -> dict[str, Tensor]:
    """Pads adapters to a higher rank with zero rows of A and zero columns of B, which leave the products B A unchanged.

    Args:
        tensors: A (r, in) and B (out, r) of any experts; other tensors are not changed.
        rank: of the result, at least r.
    """
    wider = dict(tensors)
    for name, tensor in tensors.items():
        kind = TensorName.parse(name).kind
        if kind == "A":
            wider[name] = F.pad(tensor, (0, 0, 0, rank - tensor.shape[0]))
        elif kind == "B":
            wider[name] = F.pad(tensor, (0, rank - tensor.shape[1]))
    return wider


def first_ranks(model: ClientModel, rank: int) -> ClientModel:
    """The first ``rank`` rows of A and columns of B of a single adapter, with the same alpha / r.

    Unlike the result of :func:`at_rank`, it is not the best approximation of the product.
    """
    spec, tensors = model.spec, dict(model.tensors)
    if rank == spec.r:
        return model
    for name, tensor in tensors.items():
        kind = TensorName.parse(name).kind
        if kind in "AB":
            tensors[name] = (tensor[:rank] if kind == "A" else tensor[:, :rank]).contiguous()
    return replace(model, spec=replace(spec, r=rank, alpha=spec.alpha / spec.r * rank), tensors=tensors)


def product_norm(tensors: Tensors) -> float:
    """The Frobenius norm over all products B A of a single adapter."""
    grams = ((a @ a.T) * (b.T @ b) for a, b in _doubles(tensors))  # trace of (A A^T) (B^T B), which are symmetric
    return math.sqrt(max(0.0, sum(float(gram.sum()) for gram in grams)))


def tail_norm(tensors: Tensors, kept: int) -> float:
    """Sum over modules of ||A_tail|| ||B_tail||, where the tail is all ranks of a single adapter after ``kept``."""
    return math.fsum(float(a[kept:].norm() * b[:, kept:].norm()) for a, b in _doubles(tensors))


def _doubles(tensors: Tensors) -> list[tuple[Tensor, Tensor]]:
    """A and B of every module of a single adapter, in float64."""
    parsed = sorted(map(TensorName.parse, tensors))
    return [(tensors[str(n)].double(), tensors[str(n._replace(kind="B"))].double()) for n in parsed if n.kind == "A"]


def at_rank(model: ClientModel, rank: int) -> ClientModel:
    """A model with its adapters brought to another rank and the same alpha / r.

    To a lower rank, every product B A becomes its best approximation, see :func:`truncate`. Where the columns of B
    after the first ``rank`` are zero, as before training or after :func:`padded`, the first ``rank`` rows of A and
    columns of B are kept bit for bit. To a higher rank, products are padded. Routers and heads do not change.

    Args:
        model: an adapter or a mixture.
        rank: r of the result.
    """
    spec = model.spec
    if rank == spec.r:
        return model
    change = padded if rank > spec.r else _cut_all
    return replace(
        model,
        spec=replace(spec, r=rank, alpha=spec.alpha / spec.r * rank),
        tensors=change(model.tensors, rank),
        candidates=tuple(change(candidate, rank) for candidate in model.candidates),
    )


def _cut_all(tensors: Tensors, rank: int) -> dict[str, Tensor]:
    cut = dict(tensors)
    for name in tensors:
        module, kind, expert = TensorName.parse(name)
        if kind == "B":
            other = str(TensorName(module, "A", expert))
            cut[other], cut[name] = _cut(tensors[other], tensors[name], rank)
    return cut


def _cut(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    known = _CUTS.setdefault(b, {}).get(rank)
    if known is None or known[0] is not a:
        if bool(b[:, rank:].any()):
            pair = truncate(a.detach().double(), b.detach().double(), rank)
        else:
            pair = a[:rank].clone(), b[:, :rank].clone(memory_format=torch.contiguous_format)
        known = _CUTS[b][rank] = a, pair[0].to(a.dtype), pair[1].to(b.dtype).contiguous()
    return known[1], known[2]


def product_mean(states: Sequence[Tensors], weights: Sequence[float]) -> dict[str, Tensor]:
    """The single adapter of rank r nearest to the mean of products, sum over i of w_i B_i A_i, module by module.

    The mean of B times the mean of A differs from the mean of the products, which is
    ``[w_1 B_1 ... w_N B_N] [A_1; ...; A_N]``, of rank at most N r; :func:`truncate` reduces it to rank r. The scaling
    alpha / r is the same before and after. With one state, the product is unchanged up to rounding, and A and B are
    balanced.

    Args:
        states: one mapping per client, A and B of a single adapter.
        weights: one finite, non-negative weight per state, with a positive sum; they are scaled to sum 1.

    Returns:
        A and B under the same names, in the dtype of the inputs, computed in float64; other tensors as weighted means.

    Raises:
        ValueError: as :func:`fedlease.core.aggregate.weighted_mean`.
    """
    mean = weighted_mean(states, weights)
    total = sum(weights)
    for name in sorted(mean):
        module, kind, expert = TensorName.parse(name)
        if kind != "A":
            continue
        other = str(TensorName(module, "B", expert))
        a = torch.cat([state[name].detach().double() for state in states])  # (N r, in)
        b = torch.cat(
            [state[other].detach().double() * (w / total) for state, w in zip(states, weights, strict=True)], 1
        )
        like = mean[name]
        a, b = truncate(a, b, len(like))
        mean[name], mean[other] = a.to(like.dtype), b.to(like.dtype)
    return mean
