"""A mixture as one adapter: constant weights in the place of the router (an approximation), or one expert alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlease.core.experts import expert_tensors, renumber
from fedlease.core.refactor import truncate
from fedlease.core.types import HEAD, AdapterSpec, ClientModel, TensorName

__all__ = ["expert_alone", "fold"]


def expert_alone(model: ClientModel, expert: int) -> ClientModel:
    """One expert of a mixture as a single adapter, with the model's head.

    Raises:
        ValueError: the mixture has no such expert.
    """
    if not 0 <= expert < model.spec.num_experts:
        raise ValueError(f"expert must be in 0 .. {model.spec.num_experts - 1}, received {expert}")
    spec = _single(model.spec)
    return ClientModel(spec, {**renumber(expert_tensors(model.tensors, expert), 0), **_head(model)})


def fold(model: ClientModel, weights: Mapping[str, Sequence[float]], rank: int | None = None) -> ClientModel:
    """One adapter whose update is (alpha / r) sum over e of w_e B_e A_e, with the same w for every token.

    Without ``rank`` it is exact for these weights, of rank M r: the experts side by side. With ``rank`` it is the best
    approximation of that rank in every module (truncated singular value decomposition); a module whose smaller side is
    below ``rank`` is exact, and filled up with zeros, since an adapter has one rank.

    Args:
        model: a mixture; a single adapter is given back as it is, or truncated to ``rank``.
        weights: module -> w, one per expert.
        rank: of the result, at least 1 and at most M r.

    Raises:
        ValueError: a module has no weights, or another number of them; or the rank is out of range.
    """
    spec = model.spec
    full = spec.num_experts * spec.r
    if rank is not None and not 1 <= rank <= full:
        raise ValueError(f"rank must be in 1 .. {full} (experts x r), received {rank}")
    tensors: dict[str, Tensor] = {}
    for module in spec.target_modules:
        w = [1.0] if spec.num_experts == 1 else list(weights.get(module, ()))
        if len(w) != spec.num_experts:
            raise ValueError(f"{module}: {spec.num_experts} weights are needed, one per expert, received {len(w)}")
        experts = range(spec.num_experts)
        a = torch.cat([model.tensors[str(TensorName(module, "A", e))].double() for e in experts])  # (M r, in)
        b = torch.cat([w[e] * model.tensors[str(TensorName(module, "B", e))].double() for e in experts], 1)
        if rank is not None and rank < full:
            kept = min(rank, a.shape[1], b.shape[0])
            a, b = truncate(a, b, kept)
            a, b = F.pad(a, (0, 0, 0, rank - kept)), F.pad(b, (0, rank - kept))
        tensors[str(TensorName(module, "A", 0))] = a.float()
        tensors[str(TensorName(module, "B", 0))] = b.float()
    r = full if rank is None else rank
    # alpha / r stays what it was.
    scaled = replace(_single(spec), r=r, alpha=spec.alpha / spec.r * r)
    return ClientModel(scaled, {**tensors, **_head(model)})


def _single(spec: AdapterSpec) -> AdapterSpec:
    return AdapterSpec(spec.r, spec.alpha, spec.dropout, spec.target_modules)


def _head(model: ClientModel) -> dict[str, Tensor]:
    return {name: t for name, t in model.tensors.items() if TensorName.parse(name).module == HEAD}
