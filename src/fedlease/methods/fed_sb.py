"""Fed-SB: only an r x r core between frozen factors is trained and averaged, which is exact and cheap to send.

Singhal, Ponkshe, Vartak, Varshney, Vepakomma: Fed-SB: A Silver Bullet for Extreme Communication Efficiency and
Performance in (Private) Federated LoRA Fine-Tuning. 2025. https://arxiv.org/abs/2502.15436

The factors are those of LoRA-SB. Ponkshe, Singhal, Gorbunov, Tumanov, Horvath, Vepakomma: Initialization using Update
Approximation is a Silver Bullet for Extremely Efficient Low-Rank Fine-Tuning. 2024. https://arxiv.org/abs/2411.19557
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedlease.core.adapters import shape_of
from fedlease.core.aggregate import client_weights, mean_update, weighted_mean
from fedlease.core.choices import FactorStart, Weighting
from fedlease.core.codec import serialisable
from fedlease.core.low_rank import best_pair, cored, product_mean
from fedlease.core.sparse import dense
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Stage, TensorName, Tensors
from fedlease.errors import RunFailedError
from fedlease.methods.base import CommonMethod, CommonState, Terms, by_client

__all__ = ["FedSB", "FedSBState", "build"]

ROUNDS = "cores"


@serialisable
@dataclass(frozen=True, kw_only=True)
class FedSBState(CommonState):
    """State of a Fed-SB run.

    Attributes:
        factors: the frozen A and B; {} until the end of the warm-up.
        cores: ``<module>/G`` (r, r), one per module.
    """

    factors: Tensors = field(default_factory=dict)
    cores: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class FedSB(CommonMethod):
    """Parameters of Fed-SB. The update of a module is (alpha / r) B G A, where all clients share A and B.

    After the warm-up, B G A is the best approximation of the mean warm-up, with orthonormal A and B. The paper uses the
    gradient of all weights on a sample of rows instead of the mean warm-up.

    Attributes:
        weights: weights of clients in a mean.
        start: the tensors trained in the warm-up: A and B (``adapters``), or all ``weights`` of the adapted modules.
            With E = 1 and a single batch, the latter is AdamW's first step, the sign of the gradient, as in LoRA-SB.
    """

    weights: Weighting = "num_examples"
    start: FactorStart = "adapters"

    averaged: ClassVar[tuple[str, ...]] = ("cores",)

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> FedSBState:
        """All clients start the warm-up from the same adapter."""
        return FedSBState(round=0, adapter=adapter, clients=dict(clients))

    def task(self, state: FedSBState, client: ClientId) -> ClientTask | None:
        """A warm-up first; then a task that trains and uploads only the cores."""
        if state.round > self.last_round:
            return None
        if not state.factors or client not in state.warmup.results:
            task = state.warmup.task(client, state.adapter, self.budget, state.round)
            if task is None or self.start == "adapters" or state.factors:
                return task
            # A late client cannot change the factors: it warms up only to train its head, as cheaply as possible.
            model = _on_all_weights(state.adapter)
            names = model.names("G")
            stages = tuple(replace(stage, trainable=names) for stage in task.stages)
            return replace(task, model=model, stages=stages, upload=names)
        names = frozenset(state.cores)
        stage = Stage(names, self.budget.local_epochs)
        return ClientTask(ROUNDS, state.round, self.model(state, client), (stage,), upload=names)

    def aggregate(
        self, state: FedSBState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> FedSBState:
        """Makes the factors once all clients have warmed up, and averages the cores afterwards."""
        updates = by_client(updates)
        warmup = state.warmup.collect(updates, () if state.factors else absent)
        if not state.factors:
            state = replace(state, warmup=warmup)
            return state if warmup.pending(state.clients) else self._begin(state)
        trained = [update for update in updates if update.phase == ROUNDS]
        cores = mean_update(trained, self.weights) if trained else state.cores
        return replace(state, round=state.round + 1, warmup=warmup.used(), cores=cores)

    def model(self, state: FedSBState, client: ClientId) -> ClientModel:
        """The factors with the cores between them; before that, the client's warm-up."""
        spec = state.adapter.spec
        if not state.factors:
            start = state.adapter if self.start == "adapters" else _on_all_weights(state.adapter)
            return replace(start, tensors={**start.tensors, **state.warmup.results.get(client, {})})
        tensors, kept = {**state.factors, **state.cores}, frozenset(state.factors)
        return ClientModel(replace(spec, mixer="core"), tensors, kept=kept)

    def group(self, state: FedSBState, client: ClientId) -> int:
        """All clients are one group."""
        return 0

    def _begin(self, state: FedSBState) -> FedSBState:
        warmups = state.warmup.results
        if not warmups:
            raise RunFailedError("no client's warm-up could be used, so the frozen factors cannot be computed")
        weights = client_weights({client: state.clients[client] for client in sorted(warmups)}, self.weights)
        states, shares = [warmups[client] for client in weights], list(weights.values())
        mean = product_mean(states, shares) if self.start == "adapters" else self._best(state, states, shares)
        factors, cores = dict(mean), {}
        for module in state.adapter.spec.target_modules:
            a, b = (str(TensorName(module, kind, 0)) for kind in "AB")
            pair = cored(mean[a].double(), mean[b].double())
            factors[a], core, factors[b] = (tensor.float().contiguous() for tensor in pair)
            cores[str(TensorName(module, "G"))] = core
        return replace(state, round=1, warmup=state.warmup.used(), factors=factors, cores=cores)

    @staticmethod
    def _best(state: FedSBState, states: Sequence[Tensors], shares: Sequence[float]) -> dict[str, Tensor]:
        """A and B of the best approximation of the warm-ups' mean change of all weights."""
        mean, spec, model = weighted_mean(states, shares), state.adapter.spec, _on_all_weights(state.adapter)
        pairs = {}
        for module in spec.target_modules:
            values = mean[str(TensorName(module, "G"))].double()
            change = dense(values, shape_of(state.adapter.tensors, module), model.spec.places)
            pairs[module] = best_pair(change * spec.r / spec.alpha, spec.r)
        return {
            str(TensorName(module, kind, 0)): tensor
            for module, pair in pairs.items()
            for kind, tensor in zip("AB", pair, strict=True)
        }


def _on_all_weights(adapter: ClientModel) -> ClientModel:
    """The initial adapter with a trainable difference, 0, for every weight of the adapted modules."""
    spec = replace(adapter.spec, dropout=0.0, mixer="sparse", density=1.0)
    sizes = {module: math.prod(shape_of(adapter.tensors, module)) for module in spec.target_modules}
    values = {str(TensorName(module, "G")): torch.zeros(size) for module, size in sizes.items()}
    return ClientModel(spec, {**adapter.tensors, **values}, kept=frozenset(adapter.tensors))


def build(terms: Terms, *, start: FactorStart = "adapters") -> FedSB:
    """Fed-SB from the settings of ``fed_sb.*``."""
    return FedSB(terms.budget, terms.weights, start)
