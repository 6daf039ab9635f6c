"""FedEx-LoRA: FedIT whose mean is exact: what the product of the means lacks is added to the frozen weights of all.

Singhal, Ponkshe, Vepakomma: FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Large Language
Models. ACL 2025. https://arxiv.org/abs/2410.09432
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from fedlease.core.aggregate import client_weights, mean_update
from fedlease.core.choices import Weighting
from fedlease.core.codec import serialisable
from fedlease.core.residual import extended, lacking, on_residual
from fedlease.core.types import Budget, ClientId, ClientModel, ClientTask, ClientUpdate, Stage, Tensors
from fedlease.methods.base import CommonState, Terms, by_client

__all__ = ["FedExLoRA", "FedExLoRAState", "build"]

PHASE = "federated"


@serialisable
@dataclass(frozen=True, kw_only=True)
class FedExLoRAState(CommonState):
    """Where a FedEx-LoRA run stands; ``adapter`` is the mean of A and of B.

    Attributes:
        residual: what has been added to the frozen weights, see :mod:`fedlease.core.residual`.
    """

    residual: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class FedExLoRA:
    """Parameters of FedEx-LoRA. There is no warm-up: the whole budget T is spent in rounds.

    Attributes:
        budget: E, R and local epochs.
        weights: how clients are weighted.
    """

    budget: Budget
    weights: Weighting = "num_examples"

    averaged: ClassVar[tuple[str, ...]] = ()

    @property
    def last_round(self) -> int:
        """Opening rounds in the place of a warm-up, then R."""
        return self.budget.opening_rounds + self.budget.rounds

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> FedExLoRAState:
        """The initial adapter is the first shared one, and nothing is added to the frozen weights."""
        return FedExLoRAState(round=1, adapter=adapter, clients=dict(clients))

    def task(self, state: FedExLoRAState, client: ClientId) -> ClientTask | None:
        """Train A and B on top of the residual, and give them back."""
        if state.round > self.last_round:
            return None
        names = state.adapter.names("AB")
        stage = Stage(names, self.budget.epochs(state.round))
        return ClientTask(PHASE, state.round, self.model(state, client), (stage,), upload=names)

    def aggregate(
        self, state: FedExLoRAState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> FedExLoRAState:
        """Means of A and of B, and what their product lacks."""
        after = replace(state, round=state.round + 1)
        if not updates:
            return after
        updates = by_client(updates)
        mean = mean_update(updates, self.weights)
        weights = client_weights({update.client: update.num_examples for update in updates}, self.weights)
        lack = lacking([update.tensors for update in updates], list(weights.values()), mean)
        adapter = replace(state.adapter, tensors={**state.adapter.tensors, **mean})
        return replace(after, adapter=adapter, residual=extended(state.residual, lack))

    def model(self, state: FedExLoRAState, client: ClientId) -> ClientModel:
        """The shared adapter on top of the residual."""
        return on_residual(state.adapter, state.residual)

    def admit(self, state: FedExLoRAState, client: ClientId, num_examples: int) -> FedExLoRAState:
        """A late client shares from its first round on."""
        return replace(state, clients={**state.clients, client: num_examples})

    def group(self, state: FedExLoRAState, client: ClientId) -> int:
        """All clients are one group."""
        return 0


def build(terms: Terms) -> FedExLoRA:
    """FedEx-LoRA, which has no settings of its own."""
    return FedExLoRA(terms.budget, terms.weights)
