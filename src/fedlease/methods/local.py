"""Local training: every client trains an adapter of its own and shares nothing.

The baseline to beat when tasks differ: what federation adds is what it gains over this.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedlease.core.codec import serialisable
from fedlease.core.types import Budget, ClientId, ClientModel, ClientTask, ClientUpdate, Stage
from fedlease.methods.base import WARMUP, ab_names, waits

__all__ = ["Local", "LocalState"]


@serialisable
@dataclass(frozen=True)
class LocalState:
    """Where a local run stands; the adapters themselves are private and stay with the clients.

    Attributes:
        round: 0 until every client has been asked once.
        adapter: what every client starts from.
        clients: client -> n_i.
        started: clients that have trained.
        tries: client -> first tasks that were refused.
    """

    round: int
    adapter: ClientModel
    clients: Mapping[ClientId, int]
    started: frozenset[ClientId] = frozenset()
    tries: Mapping[ClientId, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Local:
    """Parameters of local training. Its first task has E epochs, so that a warm-up of others is the same work.

    Attributes:
        budget: E, R and local epochs.
    """

    budget: Budget

    @property
    def last_round(self) -> int:
        """R."""
        return self.budget.rounds

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> LocalState:
        """Everyone starts from the same adapter."""
        return LocalState(round=0, adapter=adapter, clients=dict(clients))

    def task(self, state: LocalState, client: ClientId) -> ClientTask | None:
        """Train A and B, give nothing back."""
        if state.round > self.last_round:
            return None
        first = client not in state.started
        if state.round == 0 and not waits(client, state.started, state.tries):
            return None
        epochs = self.budget.warmup_epochs if first else self.budget.local_epochs
        stage = Stage(ab_names(state.adapter), epochs)
        return ClientTask(WARMUP if first else "local", state.round, state.adapter, (stage,), upload=frozenset())

    def aggregate(
        self, state: LocalState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> LocalState:
        """Nothing is averaged; only the round advances, once every client has been asked."""
        started = state.started | {update.client for update in updates}
        tries = {**state.tries, **{client: state.tries.get(client, 0) + 1 for client in absent}}
        waiting = state.round == 0 and any(waits(client, started, tries) for client in state.clients)
        return replace(state, round=state.round + (not waiting), started=started, tries=tries)

    def model(self, state: LocalState, client: ClientId) -> ClientModel:
        """The initial adapter; the engine lays the client's own over it."""
        return state.adapter

    def admit(self, state: LocalState, client: ClientId, num_examples: int) -> LocalState:
        """A late client starts with the first task."""
        return replace(state, clients={**state.clients, client: num_examples})

    def group(self, state: LocalState, client: ClientId) -> int:
        """Every client stands alone."""
        return sorted(state.clients).index(client)
