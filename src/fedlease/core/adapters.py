"""Adapters as named tensors: initial values of A, B and routers, and the numbering of experts (paper, phase 1)."""

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from fedlease.core.choices import RouterStart
from fedlease.core.routing import num_slots
from fedlease.core.seeds import generator
from fedlease.core.types import AdapterSpec, ClientModel, TensorName, Tensors

__all__ = [
    "a_matrices",
    "b_matrices",
    "check_whole",
    "expert_tensors",
    "half_of",
    "initial_adapter",
    "initial_router",
    "renumber",
    "shape_of",
    "whole",
]

MIRROR_SCALE = 16.0
"""Factor of the mirrored router rows. Without it, logits of a layer-normalised x have a standard deviation of
1 / sqrt 3, too small for one slot of a mirrored pair to win clearly."""


def initial_adapter(
    shapes: Mapping[str, tuple[int, int]], *, r: int, alpha: float, dropout: float, seed: int
) -> ClientModel:
    """The adapter that every client starts from: A is Kaiming-uniform with a = sqrt 5, B is 0.

    Clients share A so that their B can be compared: B is expressed in the basis that A spans.

    Args:
        shapes: adapted module -> (in features, out features).
        r: rank.
        alpha: LoRA alpha.
        dropout: LoRA dropout.
        seed: root seed of the run.
    """
    tensors: dict[str, Tensor] = {}
    for module in sorted(shapes):
        features_in, features_out = shapes[module]
        tensors[str(TensorName(module, "A", 0))] = _kaiming_uniform(r, features_in, seed, "lora_A", module)
        tensors[str(TensorName(module, "B", 0))] = torch.zeros(features_out, r)
    spec = AdapterSpec(r=r, alpha=alpha, dropout=dropout, target_modules=tuple(sorted(shapes)))
    return ClientModel(spec, tensors)


def initial_router(
    adapter: ClientModel, num_experts: int, seed: int, start: RouterStart = "random"
) -> dict[str, Tensor]:
    """G for every adapted module, the same for all clusters: {<module>/G: (2M - 1, in)}.

    ``random`` is Kaiming-uniform, as in the released code. Zeros would never train: with renormalised weights, G = 0
    keeps only own slots, so the own expert always weighs 1 and the router's gradient is exactly 0.

    ``own`` starts from those values and makes mirrored pairs of the own slots: rows 0 .. P - 1, with P = floor(M / 2),
    are scaled by ``MIRROR_SCALE``, and rows P .. 2P - 1 are their negatives. For any x, one slot of a pair has the
    logit |g x| and the other -|g x|. So an own slot is well above the other experts' slots, whose logits are near 0,
    without a bias and whatever the mean of x is. The losing slot of each pair drops out of the top M and makes room
    for another expert. Every token therefore gives its own expert a weight of nearly 1 and some other expert a small
    one, and the router's gradient comes from the latter.
    """
    routers = {}
    for module in adapter.spec.target_modules:
        features = adapter.tensors[str(TensorName(module, "A", 0))].shape[1]
        router = _kaiming_uniform(num_slots(num_experts), features, seed, "router", module)
        if start == "own":
            pairs = num_experts // 2
            router[:pairs] *= MIRROR_SCALE
            router[pairs : 2 * pairs] = -router[:pairs]
        routers[str(TensorName(module, "G"))] = router
    return routers


def renumber(tensors: Tensors, expert: int) -> dict[str, Tensor]:
    """Renames the A and B tensors of a single adapter to those of one expert; other tensors keep their names."""
    return {_renumbered(name, expert): tensor for name, tensor in tensors.items()}


@lru_cache(2**16)  # every client's model has the same names
def _renumbered(name: str, expert: int) -> str:
    parsed = TensorName.parse(name)
    return name if parsed.expert is None else str(parsed._replace(expert=expert))


def a_matrices(tensors: Tensors, expert: int = 0) -> dict[str, Tensor]:
    """Module -> A of one expert, (r, in). A single adapter is expert 0."""
    return _of_kind(tensors, "A", expert)


def b_matrices(tensors: Tensors, expert: int = 0) -> dict[str, Tensor]:
    """Module -> B of one expert, (out, r), which allocation and placement compare. A single adapter is expert 0."""
    return _of_kind(tensors, "B", expert)


def shape_of(tensors: Tensors, module: str) -> tuple[int, int]:
    """(out, in) of an adapted module, read from the A and B of expert 0."""
    return tensors[str(TensorName(module, "B", 0))].shape[0], tensors[str(TensorName(module, "A", 0))].shape[1]


def expert_tensors(tensors: Tensors, expert: int) -> dict[str, Tensor]:
    """The A and B of one expert of a mixture, under their own names."""
    return {name: tensor for name, tensor in tensors.items() if TensorName.parse(name).expert == expert}


def check_whole(model: ClientModel) -> None:
    """Checks that a model has the tensors that its spec announces, before anything of the announced size is allocated.

    Raises:
        ValueError: an A or B is missing or of another rank.
    """
    spec = model.spec
    if len(spec.target_modules) * spec.num_experts * 2 > len(model.tensors):
        raise ValueError(
            f"{spec.num_experts} experts in {len(spec.target_modules)} modules need an A and a B each, received "
            f"{len(model.tensors)} tensors"
        )
    for module in spec.target_modules:
        for expert in range(spec.num_experts):
            for kind, side in (("A", 0), ("B", 1)):
                name = str(TensorName(module, kind, expert))
                if name not in model.tensors:
                    raise ValueError(f"{name} is missing")
                if model.tensors[name].dim() != 2 or model.tensors[name].shape[side] != spec.r:
                    shape = list(model.tensors[name].shape)
                    raise ValueError(f"{name} must be of rank {spec.r}, received the shape {shape}")


def whole(tensors: Tensors) -> dict[str, Tensor]:
    """Joins the halves of a warm-up into one adapter: the shared A, and the sum of both halves' parts of B.

    Tensors of a warm-up without halves are returned unchanged.
    """
    second = renumber(expert_tensors(tensors, 1), 0)
    one = {name: tensor for name, tensor in tensors.items() if TensorName.parse(name).expert != 1}
    return {name: tensor + second[name] if name in second else tensor for name, tensor in one.items()}


def half_of(tensors: Tensors, half: int) -> dict[str, Tensor]:
    """What one half of a client's rows has learnt, as a single adapter: the shared A, and this half's part of B.

    Args:
        tensors: of a warm-up on two halves.
        half: 0 or 1.
    """
    shared = {name: tensor for name, tensor in tensors.items() if TensorName.parse(name).kind == "A"}
    parts = {name: tensor for name, tensor in expert_tensors(tensors, half).items() if name not in shared}
    return {**shared, **renumber(parts, 0)}


def _of_kind(tensors: Tensors, kind: str, expert: int) -> dict[str, Tensor]:
    parsed = {TensorName.parse(name): tensor for name, tensor in tensors.items()}
    return {name.module: tensor for name, tensor in parsed.items() if name[1:] == (kind, expert)}


def _kaiming_uniform(rows: int, features_in: int, seed: int, *purpose: str) -> Tensor:
    # a = sqrt 5 makes the bound sqrt(6 / (1 + 5) / fan_in) = 1 / sqrt(fan_in).
    bound = 1 / math.sqrt(features_in)
    return torch.empty(rows, features_in).uniform_(-bound, bound, generator=generator(seed, *purpose))
