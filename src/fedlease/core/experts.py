"""The arithmetic of a layer with experts (paper, phase 2): y = W0 x + (alpha / r) sum over e of w_e(x) B_e A_e x.

Two matrix products whatever M is: ``[A_0; ...; A_{M-1}; G] x`` gives the ranks of all experts and the router's logits,
``[B_0 ... B_{M-1}]`` takes the weighted ranks back. Tokens are (n, in) and share every matrix; or they are
(rows, T, in), and a matrix may then be shared, (out, in), or one per row, (rows, out, in), so that the rows of one
batch may belong to different clients.
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
"""A direction that is shorter is not scaled to length 1."""

ROUTER_ROWS: dict[Mixer, Callable[[int], int]] = {"top_m": num_slots, "softmax": lambda m: m}
"""Mixers whose router looks at every token -> rows of G for M experts."""

CORE_SHAPES: dict[Mixer, Callable[[int, int], tuple[int, ...]]] = {
    "core": lambda r, m: (r, r),
    "heads": lambda r, m: (m, 1 + r * r),
    "diagonal": lambda r, m: (r,),
    "magnitude": lambda r, m: (r,),
}
"""Mixers with something between B and A -> shape of G for rank r and M experts."""

FIXED: dict[str, int] = {"none": 1, "core": 1, "diagonal": 1, "magnitude": 1, "sparse": 1, "scalar": 2, "instance": 2}
"""Mixer -> the number of experts that it combines; other mixers combine any number."""


class Rule(NamedTuple):
    """How a layer combines its experts; tokens under one rule are routed in one call.

    Attributes:
        mixer: see :class:`fedlease.core.types.AdapterSpec`.
        num_experts: M.
        scaling: alpha / r.
        top_k: see :func:`fedlease.core.routing.expert_weights`.
        renormalise: likewise.
        blend: in training the weight of expert 1 under ``instance``.
        places: seed of the positions of differences under ``sparse``.
    """

    mixer: Mixer
    num_experts: int
    scaling: float
    top_k: int | None = None
    renormalise: bool = True
    blend: float = 0.5
    places: int = 0


def linear(x: Tensor, matrix: Tensor) -> Tensor:
    """x times a matrix that all tokens share, or times the one of its row; see the module."""
    return F.linear(x, matrix) if matrix.dim() == 2 else x @ matrix.mT


def project(x: Tensor, stack: Tensor, num_logits: int, dropped: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Ranks of the experts and logits of the router.

    Args:
        x: tokens.
        stack: ``[A_0; ...; A_{M-1}; G]``, (M r + num_logits, in).
        num_logits: rows of G.
        dropped: x after dropout, which the experts see and the router does not; None where nothing is dropped.

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
    """G x in float32: the selection compares logits, and in 16 bits near ties would flip."""
    with torch.autocast(x.device.type, enabled=False):
        return linear(x.float(), router.float())


def mix(logits: Tensor, rule: Rule, own: int | Tensor) -> Tensor:
    """The weight of every expert, (..., M), in at least float32 under the mixers that are learned.

    Args:
        logits: G x for ``top_m``, (..., 2M - 1), and ``softmax``, (..., M); G itself for ``scalar``, (..., 1), whose
            sigmoid expert 0 weighs; for ``instance`` the weight of expert 1, (..., 1).
        rule: that of the tokens.
        own: see :func:`fedlease.core.routing.expert_weights`; ``top_m`` alone looks at it.

    Raises:
        ValueError: the mixer ``none`` has nothing to mix, or as :func:`fedlease.core.routing.expert_weights`.
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
    """Ranks of the experts after what stands between A and B, see :data:`CORE_SHAPES`.

    Args:
        hidden: (n, M r), or (rows, T, M r) with a core per row.
        core: G, of the mixer's shape, or one per row.
        mixer: one of :data:`CORE_SHAPES`.
    """
    per_row = core.dim() > len(CORE_SHAPES[mixer](1, 1))
    if mixer == "core":
        return linear(hidden, core)
    if mixer in ("diagonal", "magnitude"):
        return hidden * (core.unsqueeze(-2) if per_row else core)
    experts, r = core.shape[-2], hidden.shape[-1] // core.shape[-2]
    matrices = (core[..., :1] * core[..., 1:]).unflatten(-1, (r, r))  # (..., M, r, r)
    ranks = hidden.unflatten(-1, (experts, r))
    return torch.einsum("knmr,kmsr->knms" if per_row else "nmr,msr->nms", ranks, matrices).flatten(-2)


def directions(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of A (..., r, in) and columns of B (..., out, r) of length 1; one of length 0 stays."""
    return F.normalize(a, dim=-1, eps=SHORTEST), F.normalize(b, dim=-2, eps=SHORTEST)


def chosen(experts: Collection[int], num_experts: int, like: Tensor) -> Tensor:
    """Weight 1 for these experts and 0 for the others, (M,), in type and place of ``like``."""
    return like.new_tensor([float(expert in experts) for expert in range(num_experts)])


def add_differences(result: Tensor, x: Tensor, values: Tensor, places: int) -> Tensor:
    """result + D x, with sparse differences D to the frozen weights.

    Args:
        result: (n, out), or (rows, T, out) where values are one row of them per row.
        x: what A sees, (..., in).
        values: G, (k,), or (rows, k).
        places: seed of their positions.

    Returns:
        As ``result``, which stays as it is.
    """
    return result + linear(x, dense(values, (result.shape[-1], x.shape[-1]), places)).to(result.dtype)


def add_experts(result: Tensor, hidden: Tensor, weights: Tensor, b: Tensor) -> Tensor:
    """result + sum over experts e of w_e B_e h_e.

    Args:
        result: W0 x, (n, out), or (rows, T, out) where b is one per row.
        hidden: the experts' ranks side by side, (..., M r).
        weights: with alpha / r multiplied in, (..., M), or (M,) for all tokens alike.
        b: ``[B_0 ... B_{M-1}]``, (out, M r), or (rows, out, M r).

    Returns:
        As ``result``, which stays as it is.
    """
    shape, num_experts = hidden.shape, weights.shape[-1]
    ranks = hidden.view(*shape[:-1], num_experts, shape[-1] // num_experts)
    hidden = (ranks * weights.to(hidden.dtype).unsqueeze(-1)).view(shape)
    if hidden.dtype == b.dtype == result.dtype:
        # Adds while multiplying: one pass over (..., out) less than product, then sum.
        return (torch.addmm if b.dim() == 2 else torch.baddbmm)(result, hidden, b.mT)
    return result + linear(hidden, b).to(result.dtype)
