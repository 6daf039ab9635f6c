"""Local training: every client trains its own adapter and shares nothing.

It is the baseline when tasks differ: the gain over it is what federation contributes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Stage
from fedlease.methods.base import CommonMethod, CommonState, Terms

__all__ = ["Local", "build"]


@dataclass(frozen=True)
class Local(CommonMethod):
    """Parameters of local training. The first task has E epochs, like the warm-up of other methods."""

    averaged: ClassVar[tuple[str, ...]] = ()

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> CommonState:
        """All clients start from the same adapter."""
        return CommonState(round=0, adapter=adapter, clients=dict(clients))

    def task(self, state: CommonState, client: ClientId) -> ClientTask | None:
        """A task that trains A and B, and uploads nothing."""
        if state.round > self.last_round:
            return None
        if state.round == 0 or client not in state.warmup.results:
            return state.warmup.task(client, state.adapter, self.budget, state.round, upload=False)
        stage = Stage(state.adapter.names("AB"), self.budget.local_epochs)
        return ClientTask("local", state.round, state.adapter, (stage,), upload=frozenset())

    def aggregate(
        self, state: CommonState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> CommonState:
        """Advances the round, the first time only after every client has been asked; nothing is averaged."""
        warmup = state.warmup.collect(updates, absent)
        waiting = state.round == 0 and bool(warmup.pending(state.clients))
        return replace(state, round=state.round + (not waiting), warmup=warmup)

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The initial adapter, which the client replaces by its own."""
        return state.adapter

    def group(self, state: CommonState, client: ClientId) -> int:
        """A group of its own for every client."""
        return sorted(state.clients).index(client)


def build(terms: Terms) -> Local:
    """Local training, which has no settings of its own."""
    return Local(terms.budget)
