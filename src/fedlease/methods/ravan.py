"""Ravan: several r x r cores, each with a scale and its own frozen factors, are trained and averaged.

Raje, Askin, Jhunjhunwala, Joshi: Ravan: Multi-Head Low-Rank Adaptation for Federated Fine-Tuning. NeurIPS 2025.
https://arxiv.org/abs/2506.05568
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedlease.core.aggregate import mean_update
from fedlease.core.codec import serialisable
from fedlease.core.experts import CORE_SHAPES
from fedlease.core.seeds import generator
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Stage, TensorName, Tensors
from fedlease.methods.base import CommonState, Terms
from fedlease.methods.fedit import PHASE, FedIT

__all__ = ["Ravan", "RavanState", "build"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class RavanState(CommonState):
    """State of a Ravan run.

    Attributes:
        factors: the frozen A and B of every head.
        cores: ``<module>/G`` (heads, 1 + r r): the scale of every head, 1, followed by its core.
    """

    factors: Tensors
    cores: Tensors


@dataclass(frozen=True)
class Ravan(FedIT):
    """FedIT of cores: the update of a module is (alpha / r) sum over heads e of s_e B_e H_e A_e.

    Attributes:
        heads: number of heads, at least 1, each of the adapter's rank.
    """

    heads: int = 4

    averaged: ClassVar[tuple[str, ...]] = ("cores",)

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> RavanState:
        """Draws factors from the seed, orthonormal over as many heads as fit; H = 0 and s = 1."""
        factors, cores, r = {}, {}, adapter.spec.r
        for module in adapter.spec.target_modules:
            for kind, side in (("A", 1), ("B", 0)):
                width = adapter.tensors[str(TensorName(module, kind, 0))].shape[side]
                columns = _orthonormal(width, r, self.heads, generator(seed, "ravan", module, kind))
                for head, own in enumerate(columns.split(r, 1)):
                    factors[str(TensorName(module, kind, head))] = (own.T if side else own).float().contiguous()
            core = torch.zeros(CORE_SHAPES["heads"](r, self.heads))
            core[:, 0] = 1
            cores[str(TensorName(module, "G"))] = core
        return RavanState(round=1, adapter=adapter, clients=dict(clients), factors=factors, cores=cores)

    def task(self, state: CommonState, client: ClientId) -> ClientTask | None:
        """A task that trains and uploads scales and cores."""
        if state.round > self.last_round:
            return None
        model = self.model(state, client)
        names = model.names("G")
        return ClientTask(PHASE, state.round, model, (Stage(names, self.budget.epochs(state.round)),), upload=names)

    def combined(self, state: CommonState, updates: Sequence[ClientUpdate]) -> CommonState:
        """Averages s H, and sets every s to 1 again."""
        assert isinstance(state, RavanState)
        whole = [replace(u, tensors={name: _multiplied(g) for name, g in u.tensors.items()}) for u in updates]
        return replace(state, cores=mean_update(whole, self.weights))

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The heads with the shared cores."""
        assert isinstance(state, RavanState)
        spec = replace(state.adapter.spec, num_experts=self.heads, mixer="heads")
        return ClientModel(spec, {**state.factors, **state.cores}, kept=frozenset(state.factors))


def _multiplied(core: Tensor) -> Tensor:
    """Rows (1, s H) from rows (s, H)."""
    return torch.cat([torch.ones_like(core[:, :1]), core[:, :1] * core[:, 1:]], 1)


def _orthonormal(width: int, r: int, heads: int, rng: torch.Generator) -> Tensor:
    """A random (width, heads r) float64 matrix with orthonormal columns, in groups where heads r > width."""
    room = width // r
    groups = [torch.randn(width, min(room, heads - begin) * r, generator=rng) for begin in range(0, heads, room)]
    return torch.cat([torch.linalg.qr(group.double())[0] for group in groups], 1)


def build(terms: Terms, *, heads: int = 4) -> Ravan:
    """Ravan from the settings of ``ravan.*``."""
    return Ravan(terms.budget, terms.weights, heads=heads)
