"""SLoRA: clients first train a sparse share of the frozen weights, whose mean change gives A and B their start.

Babakniya, Elkordy, Ezzeldin, Liu, Song, El-Khamy, Avestimehr: SLoRA: Federated Parameter Efficient Fine-Tuning of
Language Models. FL@FM-NeurIPS 2023. https://arxiv.org/abs/2308.06522
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from fedlease.core.adapters import shape_of
from fedlease.core.aggregate import mean_update
from fedlease.core.codec import serialisable
from fedlease.core.low_rank import best_pair
from fedlease.core.seeds import derive
from fedlease.core.sparse import count_of, dense
from fedlease.core.types import AdapterSpec, ClientId, ClientModel, ClientTask, ClientUpdate, TensorName, Tensors
from fedlease.methods.base import CommonState, Terms
from fedlease.methods.fedit import FedIT

__all__ = ["SLoRA", "SLoRAState", "build"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class SLoRAState(CommonState):
    """State of an SLoRA run.

    Attributes:
        sparse: spec of the model of the first stage.
        values: ``<module>/G`` (k,), the sparse differences; {} after they have been converted to A and B.
    """

    sparse: AdapterSpec
    values: Tensors


@dataclass(frozen=True)
class SLoRA(FedIT):
    """FedIT whose A and B start from a first stage in which sparse differences to the frozen weights are averaged.

    Attributes:
        stage: share of the rounds that belong to the first stage, in [0, 1], rounded up; 0 is FedIT, bit for bit.
        density: share of the weights of an adapted module that the first stage trains, in (0, 1].
    """

    stage: float = 0.25
    density: float = 0.01

    averaged: ClassVar[tuple[str, ...]] = ()

    @property
    def sparse_rounds(self) -> int:
        """R_1, the number of rounds of the first stage."""
        return math.ceil(self.stage * self.last_round)

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> SLoRAState:
        """Draws the positions from the seed, the same for all clients; the differences are 0."""
        spec = adapter.spec
        sparse = replace(spec, dropout=0.0, mixer="sparse", density=self.density, places=derive(seed, "slora") % 2**32)
        values = {
            str(TensorName(module, "G")): torch.zeros(count_of(shape_of(adapter.tensors, module), self.density))
            for module in spec.target_modules
        }
        values = values if self.sparse_rounds else {}
        return SLoRAState(round=1, adapter=adapter, clients=dict(clients), sparse=sparse, values=values)

    def task(self, state: CommonState, client: ClientId) -> ClientTask | None:
        """A task that trains and uploads the differences, or A and B in the second stage."""
        assert isinstance(state, SLoRAState)
        task = super().task(state, client)
        if task is None or not state.values:
            return task
        names = frozenset(state.values)
        return replace(task, stages=tuple(replace(stage, trainable=names) for stage in task.stages), upload=names)

    def aggregate(
        self, state: CommonState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> CommonState:
        """Averages the differences, and converts them to A and B after the first stage; then averages A and B."""
        assert isinstance(state, SLoRAState)
        if not state.values:
            return super().aggregate(state, updates, absent)
        values = mean_update(updates, self.weights) if updates else state.values
        after = replace(state, round=state.round + 1, values=values)
        return self._primed(after) if state.round == self.sparse_rounds else after

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The differences beside the initial adapter, which adds nothing; in the second stage, the adapter."""
        assert isinstance(state, SLoRAState)
        if not state.values:
            return state.adapter
        start = state.adapter.tensors
        return ClientModel(state.sparse, {**start, **state.values}, kept=frozenset(start))

    def _primed(self, state: SLoRAState) -> SLoRAState:
        """The state with A and B that approximate the differences best, scaled by r / alpha."""
        spec, tensors = state.adapter.spec, dict(state.adapter.tensors)
        for module in spec.target_modules:
            a, b, values = (str(TensorName(module, *which)) for which in (("A", 0), ("B", 0), ("G",)))
            change = dense(state.values[values].double(), shape_of(tensors, module), state.sparse.places)
            pair = best_pair(change * spec.r / spec.alpha, spec.r)
            tensors[a], tensors[b] = (tensor.float().contiguous() for tensor in pair)
        return replace(state, adapter=replace(state.adapter, tensors=tensors), values={})


def build(terms: Terms, *, stage: float = 0.25, density: float = 0.01) -> SLoRA:
    """SLoRA from the settings of ``slora.*``."""
    return SLoRA(terms.budget, terms.weights, stage=stage, density=density)
