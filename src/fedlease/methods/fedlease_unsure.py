"""Clients of FedLEASE+ that had not learnt their task in the warm-up, and join those that have it later: ours."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from fedlease.core.allocate import regrouped
from fedlease.core.codec import serialisable
from fedlease.core.directions import GroupDirections
from fedlease.core.types import ClientId, ClientTask, ClientUpdate, Tensors
from fedlease.core.wording import expert_name
from fedlease.methods.base import State
from fedlease.methods.fedlease import EXPERTS, FedLeaseState
from fedlease.methods.fedlease_halves import Halves, HalvesState
from fedlease.methods.fedlease_reallocation import due
from fedlease.methods.wrapper import Wrapper, WrapperState, innermost, with_innermost

__all__ = ["ByLoss", "ByLossState", "JoinLater", "JoinLaterState"]


@dataclass(frozen=True, kw_only=True)
class JoinedState(WrapperState):
    """The state within, and who has joined.

    Attributes:
        joined: plain sentences.
    """

    joined: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the method within, and who has joined whom."""
        return (*self.inner.notes, *self.joined)


@serialisable
@dataclass(frozen=True, kw_only=True)
class ByLossState(JoinedState):
    """The state within, who has joined, and who is still to choose.

    Attributes:
        warmups: client that has not learnt its task -> its adapter after the warm-up, numbered as expert 0.
    """

    warmups: Mapping[ClientId, Tensors] = field(default_factory=dict)


@dataclass(frozen=True)
class ByLoss(Wrapper):
    """Lets clients that had not learnt their task join an expert that comes to fit their rows.

    In every round such a client compares the experts of the others by the loss on its train rows, through its own head,
    and joins the best one that is clearly better than its own adapter after the warm-up, which has seen these rows. A
    client of few rows never learns by itself what shows in the first round in which its task's expert is good. What it
    trains alone meanwhile is no measure: the longer it is trained, the better it fits its few rows, whatever they
    teach. Two that choose each other train one expert from then on.

    Attributes:
        method: FedLEASE that tells halves apart and does not route, or what is around it.
        most: experts that a client compares at most, those with the most clients.
    """

    most: int = 8

    STATE: ClassVar[type[WrapperState]] = ByLossState

    def task(self, state: ByLossState, client: ClientId) -> ClientTask | None:
        """The task; an unsure client begins with the choice."""
        task: ClientTask | None = self.method.task(state.inner, client)
        if task is None or task.phase != EXPERTS or not (others := self._others(state, client)):
            return task
        candidates = (state.warmups[client], *(state.experts[expert] for expert in others))
        return replace(task, model=replace(task.model, candidates=candidates, reference=True))

    def aggregate(
        self, state: ByLossState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> ByLossState:
        """The aggregation of the method within, after whoever has chosen an expert was put to it."""
        chosen = {u.client: self._others(state, u.client)[u.choice - 1] for u in updates if u.choice}
        inner = state.inner
        if chosen:
            inner = with_innermost(inner, _moved(innermost(inner), chosen))
        after = self.method.aggregate(inner, [replace(update, choice=None) for update in updates], absent)
        if after.experts and not state.experts:
            # Nobody else has trained these experts yet: they are what the clients have learnt in the warm-up.
            return replace(state, inner=after, warmups=_alone(after))
        notes = [
            f"in round {state.round} client {client!r}, which had not learnt its task before, joined "
            f"{expert_name(after.assignment[client])}, which fits its rows better than what it had learnt"
            for client in sorted(chosen)
        ]
        warmups = {client: tensors for client, tensors in state.warmups.items() if client not in chosen}
        return replace(state, inner=after, warmups=warmups, joined=(*state.joined, *notes))

    def _others(self, state: ByLossState, client: ClientId) -> list[int]:
        """The experts that a client compares; [] for one that does not choose."""
        own = state.assignment.get(client)
        sizes = Counter(state.assignment.values())
        if client not in state.warmups or own is None or sizes[own] > 1:
            return []
        return sorted(sorted(sizes.keys() - {own}, key=lambda expert: (-sizes[expert], expert))[: self.most])


def _alone(state: State) -> dict[ClientId, Tensors]:
    """Unsure clients that stand alone, with their experts."""
    sizes = Counter(state.assignment.values())
    unsure = () if state.allocation is None else state.allocation.unsure
    alone = [client for client in unsure if sizes[state.assignment[client]] == 1]
    return {client: state.experts[state.assignment[client]] for client in alone}


@serialisable
@dataclass(frozen=True, kw_only=True)
class JoinLaterState(JoinedState):
    """The state within, and who has joined.

    Attributes:
        inner: that of FedLEASE that tells halves apart.
    """

    inner: HalvesState


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
        if not due(state.round - 1, self.every, self.last_round):
            return state
        if not isinstance(known, GroupDirections):
            return state
        placed = {client: known.place(expert) for client, expert in _alone(inner).items()}
        joining = {client: placement for client, placement in placed.items() if not placement.unlike}
        if not joining or len(inner.experts) == 1:
            return state
        inner = _moved(inner, {client: placement.expert for client, placement in joining.items()})
        notes = [
            f"after round {state.round - 1} client {client!r}, which had not learnt its task before, joined "
            f"{expert_name(inner.assignment[client])}, {placement.likeness}"
            for client, placement in joining.items()
        ]
        return replace(state, inner=replace(after, inner=inner), joined=(*state.joined, *notes))


def _moved(state: FedLeaseState, chosen: Mapping[ClientId, int]) -> FedLeaseState:
    """The state after unsure clients, each alone, have chosen; an expert without clients goes, numbers follow anew."""
    assert state.allocation is not None  # nobody has an expert before it
    links = {state.assignment[client]: expert for client, expert in chosen.items()}
    assignment = {client: _end(links, expert) for client, expert in state.assignment.items()}
    order = list(dict.fromkeys(assignment[client] for client in sorted(assignment)))
    renamed = {client: order.index(expert) for client, expert in assignment.items()}
    sizes = Counter(renamed.values())
    unsure = tuple(client for client in state.allocation.unsure if sizes[renamed[client]] == 1)
    return replace(
        state,
        allocation=replace(regrouped(state.allocation, renamed), unsure=unsure),
        assignment=renamed,
        centroids=None if state.centroids is None else state.centroids.chosen(order),
        experts=tuple(state.experts[expert] for expert in order),
        routers=tuple(state.routers[expert] for expert in order),
    )


def _end(links: Mapping[int, int], expert: int) -> int:
    """Where a chain of choices ends: at an expert whose client has not chosen, or the first of a circle."""
    passed: list[int] = []
    while expert in links and expert not in passed:
        passed.append(expert)
        expert = links[expert]
    return min(passed[passed.index(expert) :]) if expert in passed else expert
