"""Adapters as named tensors: where A, B, experts and routers start (paper, end of phase 1), and their numbers."""

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
"""Factor of the mirrored rows: Kaiming-uniform logits of a layer-normalised x have a deviation of 1 / sqrt 3."""


def initial_adapter(
    shapes: Mapping[str, tuple[int, int]], *, r: int, alpha: float, dropout: float, seed: int
) -> ClientModel:
    """The one adapter every client starts from: A Kaiming-uniform with a = sqrt 5, B = 0.

    The same A for all is what makes B comparable: B lives in the basis that A spans.

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

    ``random`` is Kaiming-uniform, as released. Not zero: with renormalised weights G = 0 keeps own slots only, the own
    weight is identically 1, and the router's gradient is exactly zero.

    ``own`` starts from those values and makes mirrored pairs of the own slots: rows 0 .. P - 1, with P = floor(M / 2),
    are scaled by ``MIRROR_SCALE``, and rows P .. 2P - 1 are their negatives. For any x one slot of a pair has the logit
    |g x| and the other -|g x|, so without a bias, and whatever the mean of x, an own slot is well above the foreign
    ones, whose logits are near 0. The losing slot of each pair drops out of the top M and leaves its place to a foreign
    one: next to every token's own expert, which weighs nearly 1, some foreign expert is kept with a small weight, and
    that is where the gradient of the router comes from.
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
    """The A and B tensors of a single adapter under the id of one expert; other tensors keep their names."""
    return {_renumbered(name, expert): tensor for name, tensor in tensors.items()}


@lru_cache(2**16)  # every client's model has the same names
def _renumbered(name: str, expert: int) -> str:
    parsed = TensorName.parse(name)
    return name if parsed.expert is None else str(parsed._replace(expert=expert))


def a_matrices(tensors: Tensors, expert: int = 0) -> dict[str, Tensor]:
    """Module -> A of one expert, (r, in); of a single adapter, by default."""
    return _of_kind(tensors, "A", expert)


def b_matrices(tensors: Tensors, expert: int = 0) -> dict[str, Tensor]:
    """Module -> B of one expert, (out, r); of a single adapter, by default: what allocation and placement compare."""
    return _of_kind(tensors, "B", expert)


def shape_of(tensors: Tensors, module: str) -> tuple[int, int]:
    """(out, in) of an adapted module, by the A and B of expert 0."""
    return tensors[str(TensorName(module, "B", 0))].shape[0], tensors[str(TensorName(module, "A", 0))].shape[1]


def expert_tensors(tensors: Tensors, expert: int) -> dict[str, Tensor]:
    """The A and B of one expert of a mixture, under their own names."""
    return {name: tensor for name, tensor in tensors.items() if TensorName.parse(name).expert == expert}


def check_whole(model: ClientModel) -> None:
    """Makes sure that a model has the tensors that its spec says, so that nothing larger than they are is built of it.

    Raises:
        ValueError: an A or B is missing or of another rank.
    """
    spec = model.spec
    if len(spec.target_modules) * spec.num_experts * 2 > len(model.tensors):
        raise ValueError(
            f"{spec.num_experts} experts in {len(spec.target_modules)} modules have more tensors than it has"
        )
    for module in spec.target_modules:
        for expert in range(spec.num_experts):
            for kind, side in (("A", 0), ("B", 1)):
                name = str(TensorName(module, kind, expert))
                if name not in model.tensors:
                    raise ValueError(f"{name} is missing")
                if model.tensors[name].dim() != 2 or model.tensors[name].shape[side] != spec.r:
                    raise ValueError(f"{name} must be of rank {spec.r}, is of shape {list(model.tensors[name].shape)}")


def whole(tensors: Tensors) -> dict[str, Tensor]:
    """The adapter of a warm-up whose halves are told apart: its A, and as B the sum of what either half has added.

    Tensors of another warm-up are given back as they are.
    """
    second = renumber(expert_tensors(tensors, 1), 0)
    one = {name: tensor for name, tensor in tensors.items() if TensorName.parse(name).expert != 1}
    return {name: tensor + second[name] if name in second else tensor for name, tensor in one.items()}


def half_of(tensors: Tensors, half: int) -> dict[str, Tensor]:
    """What a half of a client's rows has learnt, as a single adapter: A, which both have trained, and its part of B.

    Args:
        tensors: of a warm-up whose halves are told apart.
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
