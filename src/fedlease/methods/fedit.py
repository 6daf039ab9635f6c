"""FedIT: one LoRA adapter for all, averaged over all clients (FedAvg on A and B).

Zhang, Vahidian, Kuo, Li, Zhang, Yu, Wang, Chen: Towards Building the Federated GPT: Federated Instruction Tuning.
ICASSP 2024. https://arxiv.org/abs/2305.05644
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fedlease.core.aggregate import Weighting, mean_update
from fedlease.core.types import Budget, ClientId, ClientModel, ClientTask, ClientUpdate, Stage
from fedlease.methods.base import CommonState

__all__ = ["FedIT"]


@dataclass(frozen=True)
class FedIT:
    """Parameters of FedIT. It has no warm-up: the whole budget T is spent in rounds, and every round averages.

    Methods that differ only in which of A and B are trained and sent are subclasses that say just that.

    Attributes:
        TRAINED: kinds of tensors that learn.
        SENT: kinds that are uploaded and averaged; what is trained and not sent stays with the client.
        budget: E, R and local epochs.
        weights: how clients are weighted.
    """

    TRAINED: ClassVar[str] = "AB"
    SENT: ClassVar[str] = "AB"

    budget: Budget
    weights: Weighting = "num_examples"

    @property
    def last_round(self) -> int:
        """Opening rounds in the place of a warm-up, then R."""
        return self.budget.opening_rounds + self.budget.rounds

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> CommonState:
        """The initial adapter is the first shared one."""
        return CommonState(round=1, adapter=adapter, clients=dict(clients))

    def task(self, state: CommonState, client: ClientId) -> ClientTask | None:
        """Train what is trained of the shared adapter, give back what is sent."""
        if state.round > self.last_round:
            return None
        stage = Stage(state.adapter.names(self.TRAINED), self.budget.epochs(state.round))
        sent = state.adapter.names(self.SENT)
        return ClientTask("federated", state.round, state.adapter, (stage,), upload=sent)

    def aggregate(
        self, state: CommonState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> CommonState:
        """Weighted mean of what is sent; the rest stays as it is."""
        adapter = state.adapter
        if updates:
            mean = mean_update(updates, weighting=self.weights)
            adapter = replace(adapter, tensors={**adapter.tensors, **mean})
        return replace(state, round=state.round + 1, adapter=adapter)

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The shared adapter; the engine lays over it what the client keeps."""
        return state.adapter

    def admit(self, state: CommonState, client: ClientId, num_examples: int) -> CommonState:
        """A late client shares from its first round on."""
        return replace(state, clients={**state.clients, client: num_examples})

    def group(self, state: CommonState, client: ClientId) -> int:
        """All clients are one group."""
        return 0
