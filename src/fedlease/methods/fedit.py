"""One LoRA adapter for all, of which A, B or both are averaged over all clients (FedAvg): FedIT, FFA-LoRA, FedSA-LoRA.

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
    """Parameters of FedIT and its kin. There is no warm-up: the whole budget T is spent in rounds, and all average.

    Attributes:
        weights: how clients are weighted.
        trained: kinds of tensors that learn.
        sent: kinds that are uploaded and averaged; what is trained and not sent is private.
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
        """Train what is trained of the shared adapter, give back what is sent."""
        if state.round > self.last_round:
            return None
        stage = Stage(state.adapter.names(self.trained), self.budget.epochs(state.round))
        model = self.model(state, client)
        return ClientTask(PHASE, state.round, model, (stage,), upload=state.adapter.names(self.sent))

    def aggregate(
        self, state: CommonState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> CommonState:
        """The next round, with what :meth:`combined` makes of the updates; without any the tensors stay."""
        after = self.combined(state, updates) if updates else state
        return replace(after, round=state.round + 1)

    def combined(self, state: CommonState, updates: Sequence[ClientUpdate]) -> CommonState:
        """The state with the weighted mean of what is sent, by at least one client; the rest stays as it is."""
        mean = mean_update(updates, self.weights)
        return replace(state, adapter=replace(state.adapter, tensors={**state.adapter.tensors, **mean}))

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The shared adapter; the client lays its private tensors over it."""
        return state.adapter

    def group(self, state: CommonState, client: ClientId) -> int:
        """All clients are one group."""
        return 0


def fedit(terms: Terms) -> FedIT:
    """FedIT: one LoRA adapter for all, A and B averaged over all clients (FedAvg)."""
    return FedIT(terms.budget, terms.weights)


def ffa_lora(terms: Terms) -> FedIT:
    """FFA-LoRA: A stays at its common start, only B is trained and averaged: the mean of B A is the mean of B times A.

    Half of FedIT's bytes go up. What comes down is counted whole, although A never changes.
    """
    return FedIT(terms.budget, terms.weights, trained="B", sent="B")


def fedsa_lora(terms: Terms) -> FedIT:
    """FedSA-LoRA: A and B are trained, A is averaged over all clients, and every client has a B of its own."""
    return FedIT(terms.budget, terms.weights, sent="A")
