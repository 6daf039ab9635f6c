"""Conversion of mixtures of experts to single adapters: one expert alone, or all folded into one pair per module."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlease.core.adapters import expert_tensors, renumber, shape_of
from fedlease.core.experts import CORE_SHAPES, directions, through
from fedlease.core.low_rank import truncate
from fedlease.core.sparse import as_pair
from fedlease.core.types import AdapterSpec, ClientModel, TensorName, Tensors, head_names

__all__ = ["expert_alone", "fold"]


def expert_alone(model: ClientModel, expert: int) -> ClientModel:
    """One expert of a mixture as a single adapter, with the model's head.

    Raises:
        ValueError: the mixture has no such expert.
    """
    if not 0 <= expert < model.spec.num_experts:
        raise ValueError(f"expert must be in 0 .. {model.spec.num_experts - 1}, received {expert}")
    if model.spec.mixer in ("sparse", *CORE_SHAPES) and model.spec.num_experts == 1:
        return fold(model, {})
    return _single(model, renumber(expert_tensors(model.tensors, expert), 0), model.spec.r)


def fold(model: ClientModel, weights: Mapping[str, Sequence[float]], rank: int | None = None) -> ClientModel:
    """One adapter whose update is (alpha / r) sum over e of w_e B_e A_e, with the same w for every token.

    Under mixers without routing, w is 1. A core between B and A is multiplied into B; sparse differences are appended
    to A and B.

    Without ``rank`` the result is exact, of rank M r; sparse differences add the smaller side of the largest module.
    With ``rank`` it is the best approximation of that rank in every module (truncated singular value decomposition). A
    module whose smaller side is below ``rank`` is exact and padded with zeros, since an adapter has one rank.

    Args:
        model: a mixture; a single adapter is returned unchanged, or truncated to ``rank``.
        weights: module -> w, one weight per expert.
        rank: of the result, at least 1 and at most the exact rank.

    Raises:
        ValueError: a module does not have one weight per expert, or the rank is out of range.
    """
    spec = model.spec
    full = spec.num_experts * spec.r
    if spec.mixer == "sparse":
        full += max(min(shape_of(model.tensors, module)) for module in spec.target_modules)
    if rank is not None and not 1 <= rank <= full:
        raise ValueError(f"rank must be in 1 .. {full} (experts x r), received {rank}")
    tensors: dict[str, Tensor] = {}
    for module in spec.target_modules:
        w = list(weights.get(module, ())) if spec.routed else [1.0] * spec.num_experts
        if len(w) != spec.num_experts:
            raise ValueError(f"{module}: {spec.num_experts} weights are needed, one per expert, received {len(w)}")
        experts = range(spec.num_experts)
        a = torch.cat([model.tensors[str(TensorName(module, "A", e))].double() for e in experts])  # (M r, in)
        b = torch.cat([w[e] * model.tensors[str(TensorName(module, "B", e))].double() for e in experts], 1)
        if spec.mixer in CORE_SHAPES:
            a, b = directions(a, b) if spec.mixer == "diagonal" else (a, b)
            core = model.tensors[str(TensorName(module, "G"))].double()
            # Row i is (C e_i)^T, the core applied to unit vector i.
            b = b @ through(torch.eye(full, dtype=core.dtype), core, spec.mixer).T
        if spec.mixer == "sparse":
            values = model.tensors[str(TensorName(module, "G"))].double() * spec.r / spec.alpha
            more = as_pair(values, shape_of(model.tensors, module), spec.places)
            a, b = torch.cat([a, more[0]]), torch.cat([b, more[1]], 1)
        if len(a) > (target := full if rank is None else rank):
            a, b = truncate(a, b, min(target, a.shape[1], b.shape[0]))
        a, b = F.pad(a, (0, 0, 0, target - len(a))), F.pad(b, (0, target - len(a)))
        tensors[str(TensorName(module, "A", 0))] = a.float()
        tensors[str(TensorName(module, "B", 0))] = b.float()
    return _single(model, tensors, full if rank is None else rank)


def _single(model: ClientModel, tensors: Tensors, r: int) -> ClientModel:
    """A single adapter of rank r with the head and the alpha / r of ``model``."""
    spec = AdapterSpec(model.spec.r, model.spec.alpha, model.spec.dropout, model.spec.target_modules)
    if r != spec.r:
        spec = replace(spec, r=r, alpha=spec.alpha / spec.r * r)
    return ClientModel(spec, {**tensors, **{name: model.tensors[name] for name in sorted(head_names(model.tensors))}})
