"""FedALT: every client's own adapter beside the frozen mean of all others, combined per token by a learned mixer.

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
        individuals: client -> its A and B, for clients that have trained.
        total: sum of ``individuals``, in float64.
    """

    individuals: Mapping[ClientId, Tensors] = field(default_factory=dict)
    total: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class FedALT(CommonMethod):
    """Parameters of FedALT. It has no warm-up and spends the whole budget T in rounds."""

    averaged: ClassVar[tuple[str, ...]] = ()
    warms_up: ClassVar[bool] = False

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> FedALTState:
        """All clients start from the same adapter, which is also the mean of the others and adds nothing yet."""
        notes: tuple[str, ...] = ()
        if len(clients) == 2:
            notes = ("with two clients, the mean of the others is the other client's adapter, unaveraged",)
        return FedALTState(round=1, adapter=adapter, clients=dict(clients), notes=notes)

    def task(self, state: FedALTState, client: ClientId) -> ClientTask | None:
        """A task that trains the own adapter and the private mixer, and uploads the adapter."""
        if state.round > self.last_round:
            return None
        model = self.model(state, client)
        own = model.names("AB", OWN)
        stage = Stage(own | model.names("G"), self.budget.epochs(state.round))
        return ClientTask(PHASE, state.round, model, (stage,), upload=own)

    def aggregate(
        self, state: FedALTState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> FedALTState:
        """Collects the clients' adapters and their sum; own adapters are not averaged."""
        individuals = {**state.individuals, **{update.client: update.tensors for update in updates}}
        individuals = dict(sorted(individuals.items()))
        total = {name: tensor.double() for name, tensor in next(iter(individuals.values()), {}).items()}
        for tensors in list(individuals.values())[1:]:
            total = {name: part + tensors[name] for name, part in total.items()}
        return replace(state, round=state.round + 1, individuals=individuals, total=total)

    def model(self, state: FedALTState, client: ClientId) -> ClientModel:
        """The own adapter and the mean of the others; the client replaces the initial mixer by its own.

        The mixer starts at 0, where both adapters weigh one half for every token; the authors' code draws it at random.
        Its gradient is not zero as soon as the two adapters differ.
        """
        start = state.adapter.tensors
        own = state.individuals.get(client)
        others = len(state.individuals) - (own is not None)
        rest: Tensors = start
        if others:
            # The total minus the client's own part needs one subtraction for any number of clients, and in float64 it
            # loses almost no precision.
            left = {name: part - own[name] if own else part for name, part in state.total.items()}
            rest = {name: (part / others).to(start[name].dtype) for name, part in left.items()}
        tensors = {**renumber(own or start, OWN), **renumber(rest, REST)}
        for module in state.adapter.spec.target_modules:
            features_in = start[str(TensorName(module, "A", 0))].shape[1]
            tensors[str(TensorName(module, "G"))] = torch.zeros(2, features_in)
        return ClientModel(replace(state.adapter.spec, num_experts=2, own=OWN, mixer="softmax"), tensors)

    def group(self, state: FedALTState, client: ClientId) -> int:
        """A group of its own for every client."""
        return sorted(state.clients).index(client)


def build(terms: Terms) -> FedALT:
    """FedALT, which has no settings of its own."""
    return FedALT(terms.budget)
