"""FedLEASE that groups its clients again between rounds: ours, on trial."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from fedlease.core.adapters import b_matrices, renumber
from fedlease.core.allocate import regrouped
from fedlease.core.codec import serialisable
from fedlease.core.directions import GroupDirections
from fedlease.core.types import ClientId, ClientUpdate, TensorName, Tensors
from fedlease.core.wording import counted, expert_name
from fedlease.errors import RunFailedError
from fedlease.methods.fedlease import EXPERTS, FedLease, FedLeaseState
from fedlease.methods.fedlease_halves import Halves, HalvesState
from fedlease.methods.warmup import WARMUP
from fedlease.methods.wrapper import Wrapper, WrapperState

__all__ = ["JoinLater", "JoinLaterState", "Reallocate", "ReallocateState", "moved_clients"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class ReallocateState(WrapperState):
    """FedLEASE's state, and what new groups are made of.

    Attributes:
        inner: FedLEASE's.
        uploads: client -> the A and B it gave back last, its warm-up at first.
        origins: client -> its warm-up B, for the centroids of new groups.
    """

    inner: FedLeaseState
    uploads: Mapping[ClientId, Tensors] = field(default_factory=dict)
    origins: Mapping[ClientId, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reallocate(Wrapper):
    """Clusters the clients again between rounds, by what they uploaded last.

    Attributes:
        method: FedLEASE itself.
        every: rounds from one grouping to the next; none follows the last round.
    """

    method: FedLease
    every: int = 1

    STATE: ClassVar[type[WrapperState]] = ReallocateState

    def aggregate(
        self, state: ReallocateState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> ReallocateState:
        """FedLEASE's aggregation, then new groups where they are due."""
        uploads, origins = dict(state.uploads), dict(state.origins)
        for update in updates:
            adapter = {name: t for name, t in update.tensors.items() if TensorName.parse(name).kind in "AB"}
            uploads[update.client] = renumber(adapter, 0)
            if update.phase == WARMUP:
                origins[update.client] = b_matrices(update.tensors)
        after = self.method.aggregate(state.inner, updates, absent)
        if _due(state.round, self.every, self.last_round) and any(update.phase == EXPERTS for update in updates):
            after = self._regrouped(after, uploads, origins)
        return replace(state, inner=after, uploads=uploads, origins=origins)

    def _regrouped(
        self,
        state: FedLeaseState,
        uploads: Mapping[ClientId, Tensors],
        origins: Mapping[ClientId, Mapping[str, Tensor]],
    ) -> FedLeaseState:
        """New groups; the unchanged state if the groups stay the same, or cannot be told apart."""
        when = f"after round {state.round - 1} the"
        try:
            after = self.method.grouped(state, uploads, origins)
        except RunFailedError as error:
            return replace(state, notes=(*state.notes, f"{when} groups stay as they were: {error}"))
        changed, before, now = moved_clients(state.assignment, after.assignment), len(state.experts), len(after.experts)
        if not changed:
            return state
        # The experts that a router weighs are others now, and so may be the clients that an expert's number stands for.
        note = (
            f"{when} clients were grouped again: {counted(before, 'expert')} became {now}, and {len(changed)} of "
            f"{counted(len(state.assignment), 'client')} {'is' if len(changed) == 1 else 'are'} with others than before"
        )
        return replace(after, notes=(*state.notes, note + "; routers start anew" * any(after.routers)))


@serialisable
@dataclass(frozen=True, kw_only=True)
class JoinLaterState(WrapperState):
    """The state within, and who has joined.

    Attributes:
        inner: that of FedLEASE that tells halves apart.
        joined: plain sentences.
    """

    inner: HalvesState
    joined: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the method within, and who has joined whom."""
        return (*self.inner.notes, *self.joined)


@dataclass(frozen=True)
class JoinLater(Wrapper):
    """Lets clients that had not learnt their task join those that have it, once they have.

    Between rounds the expert that such a client has trained alone is compared with what each group had learnt in its
    warm-up, on the scale by which the groups were made (:mod:`fedlease.core.directions`). Nobody else moves: pairs of
    clients that had learnt their task stay as they were.

    Attributes:
        method: FedLEASE that tells halves apart.
        every: rounds from one comparison to the next; none follows the last round.
    """

    method: Halves
    every: int = 1

    STATE: ClassVar[type[WrapperState]] = JoinLaterState

    def aggregate(
        self, state: JoinLaterState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> JoinLaterState:
        """The aggregation of the method within, then new members of groups where they are due."""
        after = self.method.aggregate(state.inner, updates, absent)
        state, inner = replace(state, inner=after), after.inner
        known = inner.centroids
        if not _due(state.round - 1, self.every, self.last_round):
            return state
        allocation = inner.allocation
        if allocation is None or not isinstance(known, GroupDirections):
            return state
        sizes = Counter(inner.assignment.values())
        waiting = [client for client in allocation.unsure if sizes[inner.assignment[client]] == 1]
        placed = {client: known.place(inner.experts[inner.assignment[client]]) for client in waiting}
        joining = {client: placement for client, placement in placed.items() if not placement.unlike}
        if not joining or len(inner.experts) == 1:
            return state
        inner = _moved(inner, {client: placement.expert for client, placement in joining.items()})
        notes = [
            f"after round {state.round - 1} client {client!r}, which had not learnt its task before, joined "
            f"{expert_name(inner.assignment[client])}, {placement.likeness}"
            for client, placement in joining.items()
        ]
        assert inner.allocation is not None  # _moved, as it was before
        unsure = tuple(client for client in allocation.unsure if client not in joining)
        inner = replace(inner, allocation=replace(inner.allocation, unsure=unsure))
        return replace(state, inner=replace(after, inner=inner), joined=(*state.joined, *notes))


def _moved(state: FedLeaseState, chosen: Mapping[ClientId, int]) -> FedLeaseState:
    """The state with some clients at other experts; an expert without clients goes, and numbers follow anew."""
    assert state.allocation is not None  # nobody has an expert before it
    assignment = {**state.assignment, **chosen}
    order = list(dict.fromkeys(assignment[client] for client in sorted(assignment)))
    renamed = {client: order.index(expert) for client, expert in assignment.items()}
    return replace(
        state,
        allocation=regrouped(state.allocation, renamed),
        assignment=renamed,
        centroids=None if state.centroids is None else state.centroids.chosen(order),
        experts=tuple(state.experts[expert] for expert in order),
        routers=tuple(state.routers[expert] for expert in order),
    )


def _due(done: int, every: int, last: int) -> bool:
    """Whether groups may change after a round; not after the last one."""
    return 0 < done < last and done % every == 0


def moved_clients(before: Mapping[ClientId, int], after: Mapping[ClientId, int]) -> list[ClientId]:
    """The clients of ``after`` whose companions are others than before, sorted; numbers of groups do not matter."""

    def companions(groups: Mapping[ClientId, int], client: ClientId) -> set[ClientId]:
        return {other for other in groups if groups[other] == groups[client]}

    return [client for client in sorted(after) if companions(before, client) != companions(after, client)]
