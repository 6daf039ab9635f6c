"""A product of low rank as a LoRA pair again, and the mean of adapters taken over their products B A."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedlease.core.aggregate import weighted_mean
from fedlease.core.types import TensorName, Tensors

__all__ = ["product_mean", "truncate"]


def truncate(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best pair of a rank for the product b a, balanced: b = U sqrt(S), a = sqrt(S) V^T of its largest singular
    values.

    Only small matrices are decomposed, never one of (out, in) where k is below both. A direction that the product
    lacks, since its rank is below ``rank``, gets zero in b and length 1 in a: with zeros in both, training could never
    move it.

    Args:
        a: (k, in).
        b: (out, k).
        rank: at most k, in and out.

    Returns:
        (rank, in) and (out, rank), in the dtype of the arguments; give float64.
    """
    qb, rb = torch.linalg.qr(b)
    qa, ra = torch.linalg.qr(a.T)
    core = rb @ ra.T  # (min(out, k), min(in, k))
    u, s, vh = torch.linalg.svd(core, full_matrices=False)
    root = s[:rank].sqrt()
    lacking = s[:rank] <= s[0] * torch.finfo(s.dtype).eps * max(core.shape)
    rows = root.where(~lacking, 1).unsqueeze(1) * vh[:rank]
    return rows @ qa.T, qb @ (u[:, :rank] * root.where(~lacking, 0))


def product_mean(states: Sequence[Tensors], weights: Sequence[float]) -> dict[str, Tensor]:
    """The single adapter of rank r nearest to the mean of the products, sum over i of w_i B_i A_i, module by module.

    The mean of B times the mean of A is not the mean of the products. That one is
    ``[w_1 B_1 ... w_N B_N] [A_1; ...; A_N]``, of rank at most N r, and is cut back to r by :func:`truncate`. Scaling by
    alpha / r is the same before and after. With one state the product stays what it was, up to rounding; A and B are
    then balanced.

    Args:
        states: one mapping per client, A and B of a single adapter.
        weights: one finite, non-negative weight per state, with a positive sum; they are scaled to sum 1.

    Returns:
        A and B under the same names, in the dtype of the inputs, computed in float64; other tensors as plain means.

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
