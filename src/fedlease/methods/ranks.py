"""Clients whose adapters have unequal ranks, around a method that compares and averages products B A alone.

The method within knows one rank, the largest, R: its adapter, experts and everything that it is given have it. A client
has the best approximation of its own rank r_i, and what it uploads is padded with zeros, which changes no product.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from fedlease.core.codec import serialisable
from fedlease.core.low_rank import at_rank, padded
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate
from fedlease.methods.base import Method
from fedlease.methods.wrapper import Wrapper, WrapperState

__all__ = ["RanksState", "WithRanks", "model_at"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class RanksState(WrapperState):
    """The state of the method within, at rank R; ranks are parameters, not state."""


@dataclass(frozen=True)
class WithRanks(Wrapper):
    """Gives every client a model of its own rank.

    Before training that is the first r_i rows of the common A, and B = 0: all clients train in one nested basis.
    alpha_i = alpha r_i / R, so that alpha / r is one for all.

    Attributes:
        default: rank of clients that are not named, at most R.
        ranks: client -> r_i, at most R.
    """

    default: int
    ranks: Mapping[ClientId, int] = field(default_factory=dict)

    STATE: ClassVar[type[WrapperState]] = RanksState

    def task(self, state: RanksState, client: ClientId) -> ClientTask | None:
        """The task of the method within, at the client's rank."""
        task = self.method.task(state.inner, client)
        return None if task is None else replace(task, model=at_rank(task.model, self.rank(client)))

    def aggregate(
        self, state: RanksState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> RanksState:
        """The aggregation of the method within, of updates that are padded to R."""
        full = state.adapter.spec.r
        updates = [replace(update, tensors=padded(update.tensors, full)) for update in updates]
        return replace(state, inner=self.method.aggregate(state.inner, updates, absent))

    def model(self, state: RanksState, client: ClientId) -> ClientModel:
        """The model of the method within, at the client's rank."""
        return model_at(self, state, client, self.rank(client))

    def rank(self, client: ClientId) -> int:
        """r_i."""
        return self.ranks.get(client, self.default)


def model_at(method: Method, state: Any, client: ClientId, rank: int) -> ClientModel:
    """A client's model at any rank, cut once; of a method whose clients have one rank, the model itself.

    Args:
        method: with or without ranks of clients.
        state: the method's.
        client: whose.
        rank: at most R.
    """
    if isinstance(method, WithRanks):
        return at_rank(method.method.model(state.inner, client), rank)
    return method.model(state, client)
