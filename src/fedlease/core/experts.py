"""The arithmetic of a layer with experts (paper, phase 2): y = W0 x + (alpha / r) sum over e of w_e(x) B_e A_e x.

Two matrix products suffice for any M: ``[A_0; ...; A_{M-1}; G] x`` gives the ranks of all experts, A_e x, and the
router's logits; ``[B_0 ... B_{M-1}]`` takes the weighted ranks back. Tokens are (n, in) and share every matrix; or they
are (rows, T, in), and each matrix is either shared, (out, in), or one per row, (rows, out, in), so that the rows of one
batch can belong to different clients.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlease.core.routing import expert_weights, num_slots
from fedlease.core.sparse import dense
from fedlease.core.types import Mixer

__all__ = [
    "CORE_SHAPES",
    "FIXED",
    "ROUTER_ROWS",
    "Rule",
    "add_differences",
    "add_experts",
    "chosen",
    "directions",
    "linear",
    "mix",
    "project",
    "router_logits",
    "through",
]

SHORTEST = 1e-8
"""Length below which a direction is divided by this constant instead of by its length."""

ROUTER_ROWS: dict[Mixer, Callable[[int], int]] = {"top_m": num_slots, "softmax": lambda m: m}
"""Mixer with a router that sees every token -> rows of G for M experts."""

CORE_SHAPES: dict[Mixer, Callable[[int, int], tuple[int, ...]]] = {
    "core": lambda r, m: (r, r),
    "heads": lambda r, m: (m, 1 + r * r),
    "diagonal": lambda r, m: (r,),
}
"""Mixer that places G between B and A -> shape of G for rank r and M experts."""

FIXED: dict[str, int] = {"none": 1, "core": 1, "diagonal": 1, "sparse": 1, "scalar": 2, "instance": 2}
"""Mixer -> the number of experts that it combines; other mixers combine any number."""


class Rule(NamedTuple):
    """How a layer combines its experts; tokens under one rule are routed in one call.

    Attributes:
        mixer: see :class:`fedlease.core.types.AdapterSpec`.
        num_experts: M.
        scaling: alpha / r.
        top_k: see :func:`fedlease.core.routing.expert_weights`.
        renormalise: likewise.
        blend: weight of expert 1 during training under ``instance``.
        places: seed of the positions of the differences under ``sparse``.
    """

    mixer: Mixer
    num_experts: int
    scaling: float
    top_k: int | None = None
    renormalise: bool = True
    blend: float = 0.5
    places: int = 0


def linear(x: Tensor, matrix: Tensor) -> Tensor:
    """x times a matrix that is shared by all tokens, (out, in), or one per row, (rows, out, in)."""
    return F.linear(x, matrix) if matrix.dim() == 2 else x @ matrix.mT


def project(x: Tensor, stack: Tensor, num_logits: int, dropped: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Ranks of the experts and logits of the router.

    Args:
        x: tokens.
        stack: ``[A_0; ...; A_{M-1}; G]``, (M r + num_logits, in).
        num_logits: rows of G.
        dropped: x after dropout, for the experts but not the router; None without dropout.

    Returns:
        (..., M r), and (..., num_logits) in float32.
    """
    sizes = [stack.shape[-2] - num_logits, num_logits]
    if dropped is None and x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type):
        hidden, logits = linear(x, stack).split_with_sizes(sizes, -1)
        return hidden, logits
    a, router = stack.split_with_sizes(sizes, -2)
    return linear(x if dropped is None else dropped, a), router_logits(x, router)


def router_logits(x: Tensor, router: Tensor) -> Tensor:
    """G x in float32: in 16 bits, rounding could change which of two similar logits is larger."""
    with torch.autocast(x.device.type, enabled=False):
        return linear(x.float(), router.float())


def mix(logits: Tensor, rule: Rule, own: int | Tensor) -> Tensor:
    """The weight of every expert, (..., M); in at least float32 under the mixers that learn it.

    Args:
        logits: for ``top_m`` and ``softmax``, G x, (..., 2M - 1) and (..., M); for ``scalar``, G, (..., 1), whose
            sigmoid is the weight of expert 0; for ``instance``, the weight of expert 1, (..., 1).
        rule: of the tokens.
        own: see :func:`fedlease.core.routing.expert_weights`; only ``top_m`` uses it.

    Raises:
        ValueError: the mixer has no router, or as :func:`fedlease.core.routing.expert_weights`.
    """
    if rule.mixer == "top_m":
        return expert_weights(logits, own, renormalise=rule.renormalise, top_k=rule.top_k)
    if rule.mixer == "instance":
        return torch.cat([1 - logits, logits], -1)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if rule.mixer == "softmax":
        return logits.softmax(-1)
    if rule.mixer == "scalar":
        share = logits.sigmoid()
        return torch.cat([share, 1 - share], -1)
    raise ValueError(f"mixer {rule.mixer!r} has no router")


def through(hidden: Tensor, core: Tensor, mixer: Mixer) -> Tensor:
    """Multiplies the ranks of the experts, A x, with the core G that stands between A and B, see :data:`CORE_SHAPES`.

    Args:
        hidden: (n, M r), or (rows, T, M r) with a core per row.
        core: G of the mixer's shape, with a leading dimension if there is one per row.
        mixer: one of :data:`CORE_SHAPES`.
    """
    per_row = core.dim() > len(CORE_SHAPES[mixer](1, 1))
    if mixer == "core":
        return linear(hidden, core)
    if mixer == "diagonal":
        return hidden * (core.unsqueeze(-2) if per_row else core)
    experts, r = core.shape[-2], hidden.shape[-1] // core.shape[-2]
    matrices = (core[..., :1] * core[..., 1:]).unflatten(-1, (r, r))  # (..., M, r, r)
    ranks = hidden.unflatten(-1, (experts, r))
    return torch.einsum("knmr,kmsr->knms" if per_row else "nmr,msr->nms", ranks, matrices).flatten(-2)


def directions(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Scales the rows of A, (..., r, in), and the columns of B, (..., out, r), to length 1; zeros stay zero."""
    return F.normalize(a, dim=-1, eps=SHORTEST), F.normalize(b, dim=-2, eps=SHORTEST)


def chosen(experts: Collection[int], num_experts: int, like: Tensor) -> Tensor:
    """Weight 1 for these experts and 0 for the others, (M,), with the dtype and device of ``like``."""
    return like.new_tensor([float(expert in experts) for expert in range(num_experts)])


def add_differences(result: Tensor, x: Tensor, values: Tensor, places: int) -> Tensor:
    """result + D x, with sparse differences D to the frozen weights.

    Args:
        result: (n, out), or (rows, T, out) with values per row.
        x: input of A, (..., in).
        values: G, (k,), or (rows, k).
        places: seed of their positions.

    Returns:
        A tensor of the shape of ``result``, which is not modified.
    """
    return result + linear(x, dense(values, (result.shape[-1], x.shape[-1]), places)).to(result.dtype)


def add_experts(result: Tensor, hidden: Tensor, weights: Tensor, b: Tensor) -> Tensor:
    """result + sum over experts e of w_e B_e h_e.

    Args:
        result: W0 x, (n, out), or (rows, T, out) with b per row.
        hidden: the ranks of all experts, h_e = A_e x, side by side, (..., M r).
        weights: w_e times alpha / r, (..., M), or (M,) for all tokens.
        b: ``[B_0 ... B_{M-1}]``, (out, M r), or (rows, out, M r).

    Returns:
        A tensor of the shape of ``result``, which is not modified.
    """
    shape, num_experts = hidden.shape, weights.shape[-1]
    ranks = hidden.view(*shape[:-1], num_experts, shape[-1] // num_experts)
    hidden = (ranks * weights.to(hidden.dtype).unsqueeze(-1)).view(shape)
    if hidden.dtype == b.dtype == result.dtype:
        # One pass over (..., out) fewer than a product followed by a sum.
        return (torch.addmm if b.dim() == 2 else torch.baddbmm)(result, hidden, b.mT)
    return result + linear(hidden, b).to(result.dtype)
