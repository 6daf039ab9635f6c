"""A wrapper that lets clients have unequal ranks, for methods that only compare and average products B A.

The wrapped method works at one rank, the largest, R. A client gets the best approximation of its own rank r_i, and its
uploads are padded with zeros to R, which does not change the products.
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
    """The wrapped state, at rank R; ranks are parameters, not state."""


@dataclass(frozen=True)
class WithRanks(Wrapper):
    """Gives every client a model of its own rank.

    Before training, that is the first r_i rows of the common A, and B = 0, so that all clients train in one nested
    basis. alpha_i = alpha r_i / R, so that alpha / r is the same for all.

    Attributes:
        default: rank of clients that are not named, at most R.
        ranks: client -> r_i, at most R.
    """

    default: int
    ranks: Mapping[ClientId, int] = field(default_factory=dict)

    STATE: ClassVar[type[WrapperState]] = RanksState

    def task(self, state: RanksState, client: ClientId) -> ClientTask | None:
        """The wrapped method's task at the client's rank."""
        task = self.method.task(state.inner, client)
        return None if task is None else replace(task, model=at_rank(task.model, self.rank(client)))

    def aggregate(
        self, state: RanksState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> RanksState:
        """The wrapped method's aggregation of updates that are padded to R."""
        full = state.adapter.spec.r
        updates = [replace(update, tensors=padded(update.tensors, full)) for update in updates]
        return replace(state, inner=self.method.aggregate(state.inner, updates, absent))

    def model(self, state: RanksState, client: ClientId) -> ClientModel:
        """The wrapped method's model at the client's rank."""
        return model_at(self, state, client, self.rank(client))

    def rank(self, client: ClientId) -> int:
        """r_i, the client's rank."""
        return self.ranks.get(client, self.default)


def model_at(method: Method, state: Any, client: ClientId, rank: int) -> ClientModel:
    """A client's model, cut to a given rank directly from R.

    Args:
        method: wrapped in :class:`WithRanks` or not; if not, the model is not cut.
        state: of the method.
        client: id of the client.
        rank: at most R.
    """
    if isinstance(method, WithRanks):
        return at_rank(method.method.model(state.inner, client), rank)
    return method.model(state, client)
