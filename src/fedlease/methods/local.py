"""Local training: every client trains an adapter of its own and shares nothing.

The baseline to beat when tasks differ: what federation adds is what it gains over this.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Stage
from fedlease.methods.base import CommonMethod, CommonState, Terms

__all__ = ["Local", "build"]


@dataclass(frozen=True)
class Local(CommonMethod):
    """Parameters of local training. Its first task has E epochs, so that a warm-up of others is the same work."""

    averaged: ClassVar[tuple[str, ...]] = ()

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> CommonState:
        """Everyone starts from the same adapter."""
        return CommonState(round=0, adapter=adapter, clients=dict(clients))

    def task(self, state: CommonState, client: ClientId) -> ClientTask | None:
        """Train A and B, give nothing back."""
        if state.round > self.last_round:
            return None
        if state.round == 0 or client not in state.warmup.results:
            return state.warmup.task(client, state.adapter, self.budget, state.round, upload=False)
        stage = Stage(state.adapter.names("AB"), self.budget.local_epochs)
        return ClientTask("local", state.round, state.adapter, (stage,), upload=frozenset())

    def aggregate(
        self, state: CommonState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> CommonState:
        """Nothing is averaged; only the round advances, once every client has been asked."""
        warmup = state.warmup.collect(updates, absent)
        waiting = state.round == 0 and bool(warmup.pending(state.clients))
        return replace(state, round=state.round + (not waiting), warmup=warmup)

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The initial adapter; the client lays its own over it."""
        return state.adapter

    def group(self, state: CommonState, client: ClientId) -> int:
        """Every client stands alone."""
        return sorted(state.clients).index(client)


def build(terms: Terms) -> Local:
    """Local training, which has no settings of its own."""
    return Local(terms.budget)
