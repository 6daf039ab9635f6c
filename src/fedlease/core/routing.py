"""Adaptive top-M selection: 2M - 1 router logits -> the weight of each of the M experts (paper, phase 2).

Slots 0 .. M - 1 all stand for the client's own expert, slots M .. 2M - 2 for the others in ascending order. The M
slots with the largest logits are kept, so the own expert always takes part, and 1 to M distinct experts are used.
"""

import torch
from torch import Tensor

__all__ = ["expert_weights", "left_out", "num_slots"]


def num_slots(num_experts: int) -> int:
    """2M - 1, the router's output size."""
    return 2 * num_experts - 1


def left_out(logits: Tensor, top_k: int) -> Tensor:
    """All slots but the ``top_k`` largest; of equal ones the lowest is kept, which favours the own expert.

    Args:
        logits: (..., slots).
        top_k: in 1 .. slots.

    Returns:
        (..., slots - top_k) ids.
    """
    # Unlike ``topk``, a stable sort guarantees the order of equal values.
    return logits.sort(dim=-1, descending=True, stable=True).indices.narrow(-1, top_k, logits.shape[-1] - top_k)


def expert_weights(logits: Tensor, own: int | Tensor, *, renormalise: bool = True, top_k: int | None = None) -> Tensor:
    """The weight of every expert, per token.

    Args:
        logits: G x, (..., 2M - 1); 16-bit logits are converted to float32.
        own: the own expert's id in 0 .. M - 1; or a LongTensor of ids that broadcasts against (...).
        renormalise: whether the kept weights are scaled to sum 1; otherwise they are those of a softmax over all slots.
        top_k: number of slots kept; None keeps M. With fewer than M, the own expert may be left out.

    Returns:
        (..., M); column e is expert e, and is 0 where no slot of the expert was kept.

    Raises:
        ValueError: the number of slots is even, or ``own`` or ``top_k`` is out of range.
    """
    slots = logits.shape[-1]
    num_experts = (slots + 1) // 2
    if slots % 2 == 0:
        raise ValueError(f"logits must have 2M - 1 slots, an odd number, received {slots}")
    top_k = num_experts if top_k is None else top_k
    if not 1 <= top_k <= slots:
        raise ValueError(f"top_k must be in 1 .. {slots}, received {top_k}")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()

    dropped = left_out(logits, top_k)
    # (..., 2M - 1)
    weights = (
        logits.scatter(-1, dropped, float("-inf")).softmax(-1)
        if renormalise
        else logits.softmax(-1).scatter(-1, dropped, 0.0)
    )
    own_slots, others = weights.split_with_sizes([num_experts, num_experts - 1], -1)
    own_weight = own_slots.sum(-1, keepdim=True)  # (..., 1)

    if isinstance(own, Tensor):
        if own.dtype != torch.long or bool(((own < 0) | (own >= num_experts)).any()):
            raise ValueError(f"own must be a LongTensor of ids in 0 .. {num_experts - 1}")
        compact = torch.cat([own_weight, others], -1)
        ids = torch.arange(num_experts, device=logits.device)
        own = own.unsqueeze(-1)
        column = torch.where(ids == own, 0, ids + (ids < own).long())  # (..., M): where expert e lies in ``compact``
        return compact.gather(-1, column.expand(compact.shape))
    if not 0 <= own < num_experts:
        raise ValueError(f"own must be in 0 .. {num_experts - 1}, received {own}")
    before, after = others.split_with_sizes([own, num_experts - 1 - own], -1)
    return torch.cat([before, own_weight, after], -1)
