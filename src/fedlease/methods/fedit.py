"""FedIT, FFA-LoRA and FedSA-LoRA: one LoRA adapter whose A, B or both are averaged over all clients (FedAvg).

Zhang, Vahidian, Kuo, Li, Zhang, Yu, Wang, Chen: Towards Building the Federated GPT: Federated Instruction Tuning.
ICASSP 2024. https://arxiv.org/abs/2305.05644

Sun, Li, Li, Ding: Improving LoRA in Privacy-preserving Federated Learning. ICLR 2024.
https://arxiv.org/abs/2403.12313

Guo, Zeng, Wang, Fan, Wang, Qu: Selective Aggregation for Low-Rank Adaptation in Federated Learning. ICLR 2025.
https://arxiv.org/abs/2410.01463
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fedlease.core.aggregate import mean_update
from fedlease.core.choices import Weighting
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Stage
from fedlease.methods.base import CommonMethod, CommonState, Terms

__all__ = ["PHASE", "FedIT", "fedit", "fedsa_lora", "ffa_lora"]

PHASE = "federated"


@dataclass(frozen=True)
class FedIT(CommonMethod):
    """Parameters of FedIT and similar methods. They have no warm-up and spend the whole budget T in rounds.

    Attributes:
        weights: weights of clients in a mean.
        trained: kinds of tensors that are trained.
        sent: kinds that are uploaded and averaged; trained tensors that are not sent are private.
    """

    weights: Weighting = "num_examples"
    trained: str = "AB"
    sent: str = "AB"

    averaged: ClassVar[tuple[str, ...]] = ("adapter",)
    warms_up: ClassVar[bool] = False

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> CommonState:
        """The initial adapter is the first shared one."""
        return CommonState(round=1, adapter=adapter, clients=dict(clients))

    def task(self, state: CommonState, client: ClientId) -> ClientTask | None:
        """A task that trains the ``trained`` tensors of the shared adapter and uploads the ``sent`` ones."""
        if state.round > self.last_round:
            return None
        stage = Stage(state.adapter.names(self.trained), self.budget.epochs(state.round))
        model = self.model(state, client)
        return ClientTask(PHASE, state.round, model, (stage,), upload=state.adapter.names(self.sent))

    def aggregate(
        self, state: CommonState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> CommonState:
        """Advances the round, and combines the updates, if any, by :meth:`combined`."""
        after = self.combined(state, updates) if updates else state
        return replace(after, round=state.round + 1)

    def combined(self, state: CommonState, updates: Sequence[ClientUpdate]) -> CommonState:
        """The state with the weighted mean of at least one update; tensors that are not sent do not change."""
        mean = mean_update(updates, self.weights)
        return replace(state, adapter=replace(state.adapter, tensors={**state.adapter.tensors, **mean}))

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The shared adapter; the client replaces tensors by its private ones."""
        return state.adapter

    def group(self, state: CommonState, client: ClientId) -> int:
        """All clients are one group."""
        return 0


def fedit(terms: Terms) -> FedIT:
    """FedIT: one LoRA adapter for all, A and B averaged over all clients (FedAvg)."""
    return FedIT(terms.budget, terms.weights)


def ffa_lora(terms: Terms) -> FedIT:
    """FFA-LoRA: A is frozen at its initial value, so that averaging B also averages the products B A exactly.

    Clients upload half of FedIT's bytes. Downloads are counted with A, although it never changes.
    """
    return FedIT(terms.budget, terms.weights, trained="B", sent="B")


def fedsa_lora(terms: Terms) -> FedIT:
    """FedSA-LoRA: A and B are trained, A is averaged over all clients, and B is private to every client."""
    return FedIT(terms.budget, terms.weights, sent="A")
