"""FedALT: an adapter of one's own beside the frozen mean of everyone else's, mixed per token by a learned mixer.

Bian, Wang, Zhang, Xu: FedALT: Federated Fine-Tuning through Adaptive Local Training with Rest-of-World LoRA.
AAAI 2026. https://arxiv.org/abs/2503.11880
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from fedlease.core.adapters import renumber
from fedlease.core.codec import serialisable
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Stage, TensorName, Tensors
from fedlease.methods.base import CommonMethod, CommonState, Terms

__all__ = ["FedALT", "FedALTState", "build"]

PHASE = "individual"
OWN, REST = 0, 1


@serialisable
@dataclass(frozen=True, kw_only=True)
class FedALTState(CommonState):
    """State of a FedALT run.

    Attributes:
        individuals: client -> its A and B, of those that have trained.
        total: their sum, in float64.
    """

    individuals: Mapping[ClientId, Tensors] = field(default_factory=dict)
    total: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class FedALT(CommonMethod):
    """Parameters of FedALT. It has no warm-up: the whole budget T is spent in rounds."""

    averaged: ClassVar[tuple[str, ...]] = ()
    warms_up: ClassVar[bool] = False

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> FedALTState:
        """Everyone starts from the same adapter; the rest of the world is that adapter too, and adds nothing yet."""
        notes: tuple[str, ...] = ()
        if len(clients) == 2:
            notes = ("two clients: the mean of the others is the other client's adapter, handed over as it is",)
        return FedALTState(round=1, adapter=adapter, clients=dict(clients), notes=notes)

    def task(self, state: FedALTState, client: ClientId) -> ClientTask | None:
        """Train the own adapter and the mixer; give the adapter back; the mixer is private."""
        if state.round > self.last_round:
            return None
        model = self.model(state, client)
        own = model.names("AB", OWN)
        stage = Stage(own | model.names("G"), self.budget.epochs(state.round))
        return ClientTask(PHASE, state.round, model, (stage,), upload=own)

    def aggregate(
        self, state: FedALTState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> FedALTState:
        """Only collects: nobody's own adapter is averaged."""
        individuals = {**state.individuals, **{update.client: update.tensors for update in updates}}
        individuals = dict(sorted(individuals.items()))
        total = {name: tensor.double() for name, tensor in next(iter(individuals.values()), {}).items()}
        for tensors in list(individuals.values())[1:]:
            total = {name: part + tensors[name] for name, part in total.items()}
        return replace(state, round=state.round + 1, individuals=individuals, total=total)

    def model(self, state: FedALTState, client: ClientId) -> ClientModel:
        """Own adapter and rest of the world; the client lays its own mixer over the initial one.

        The mixer starts at 0, where both weigh one half for every token; the authors' code draws it at random. Its
        gradient is alive as soon as the two differ.
        """
        start = state.adapter.tensors
        own = state.individuals.get(client)
        others = len(state.individuals) - (own is not None)
        rest: Tensors = start
        if others:
            # The sum without the client's own part: one subtraction, however many clients there are, which in float64
            # loses next to nothing of sums of float32.
            left = {name: part - own[name] if own else part for name, part in state.total.items()}
            rest = {name: (part / others).to(start[name].dtype) for name, part in left.items()}
        tensors = {**renumber(own or start, OWN), **renumber(rest, REST)}
        for module in state.adapter.spec.target_modules:
            features_in = start[str(TensorName(module, "A", 0))].shape[1]
            tensors[str(TensorName(module, "G"))] = torch.zeros(2, features_in)
        return ClientModel(replace(state.adapter.spec, num_experts=2, own=OWN, mixer="softmax"), tensors)

    def group(self, state: FedALTState, client: ClientId) -> int:
        """Every client stands alone."""
        return sorted(state.clients).index(client)


def build(terms: Terms) -> FedALT:
    """FedALT, which has no settings of its own."""
    return FedALT(terms.budget)
