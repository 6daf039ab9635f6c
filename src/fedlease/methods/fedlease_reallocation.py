"""FedLEASE that groups its clients again between rounds (our own, experimental)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from fedlease.core.adapters import b_matrices, renumber
from fedlease.core.codec import serialisable
from fedlease.core.types import ClientId, ClientUpdate, TensorName, Tensors
from fedlease.core.wording import counted
from fedlease.errors import RunFailedError
from fedlease.methods.fedlease import EXPERTS, FedLease, FedLeaseState
from fedlease.methods.warmup import WARMUP
from fedlease.methods.wrapper import Wrapper, WrapperState

__all__ = ["Reallocate", "ReallocateState", "due", "moved_clients"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class ReallocateState(WrapperState):
    """FedLEASE's state with the uploads from which new groups are made.

    Attributes:
        inner: FedLEASE's state.
        uploads: client -> the A and B that it uploaded last, at first its warm-up.
        origins: client -> module -> B of its warm-up, for the centroids of new groups.
    """

    inner: FedLeaseState
    uploads: Mapping[ClientId, Tensors] = field(default_factory=dict)
    origins: Mapping[ClientId, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reallocate(Wrapper):
    """Groups the clients again between rounds, by their last uploads.

    Attributes:
        method: FedLEASE itself.
        every: rounds between two groupings; clients are not grouped again after the last round.
    """

    method: FedLease
    every: int = 1

    STATE: ClassVar[type[WrapperState]] = ReallocateState

    def aggregate(
        self, state: ReallocateState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> ReallocateState:
        """FedLEASE's aggregation, followed by a new grouping where it is due."""
        uploads, origins = dict(state.uploads), dict(state.origins)
        for update in updates:
            adapter = {name: t for name, t in update.tensors.items() if TensorName.parse(name).kind in "AB"}
            uploads[update.client] = renumber(adapter, 0)
            if update.phase == WARMUP:
                origins[update.client] = b_matrices(update.tensors)
        after = self.method.aggregate(state.inner, updates, absent)
        if due(state.round, self.every, self.last_round) and any(update.phase == EXPERTS for update in updates):
            after = self._regrouped(after, uploads, origins)
        return replace(state, inner=after, uploads=uploads, origins=origins)

    def _regrouped(
        self,
        state: FedLeaseState,
        uploads: Mapping[ClientId, Tensors],
        origins: Mapping[ClientId, Mapping[str, Tensor]],
    ) -> FedLeaseState:
        """The state with new groups, unless these are the same as before or the clients cannot be grouped."""
        when = f"after round {state.round - 1} the"
        try:
            after = self.method.grouped(state, uploads, origins)
        except RunFailedError as error:
            return replace(state, notes=(*state.notes, f"{when} groups stay as they were: {error}"))
        changed, before, now = moved_clients(state.assignment, after.assignment), len(state.experts), len(after.experts)
        if not changed:
            return state
        # Routers restart, since the experts that they weigh have changed and may have other numbers.
        note = (
            f"{when} clients were grouped again: {counted(before, 'expert')} became {now}, and {len(changed)} of "
            f"{counted(len(state.assignment), 'client')} {'is' if len(changed) == 1 else 'are'} with others than before"
        )
        return replace(after, notes=(*state.notes, note + "; routers start anew" * any(after.routers)))


def due(done: int, every: int, last: int) -> bool:
    """Whether groups may change after a round: after every ``every`` rounds, but not after the last one."""
    return 0 < done < last and done % every == 0


def moved_clients(before: Mapping[ClientId, int], after: Mapping[ClientId, int]) -> list[ClientId]:
    """The clients of ``after`` that share their group with other clients than before, sorted."""

    def companions(groups: Mapping[ClientId, int], client: ClientId) -> set[ClientId]:
        return {other for other in groups if groups[other] == groups[client]}

    return [client for client in sorted(after) if companions(before, client) != companions(after, client)]
