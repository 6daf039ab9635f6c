"""Clients of FedLEASE+ that had not learnt their task in the warm-up and later join others with that task (our own)."""

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
    """The wrapped state with notes about clients that have joined others.

    Attributes:
        joined: one sentence for every client that has joined others.
    """

    joined: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of the wrapped state, followed by ``joined``."""
        return (*self.inner.notes, *self.joined)


@serialisable
@dataclass(frozen=True, kw_only=True)
class ByLossState(JoinedState):
    """The wrapped state with the warm-ups of clients that have not joined others yet.

    Attributes:
        warmups: client that has not learnt its task -> its adapter after the warm-up, numbered as expert 0.
    """

    warmups: Mapping[ClientId, Tensors] = field(default_factory=dict)


@dataclass(frozen=True)
class ByLoss(Wrapper):
    """Lets clients that had not learnt their task join an expert that fits their rows.

    In every round, such a client compares the experts of the others by the loss on its train rows, with its own head.
    It joins the best one if that is clearly better than its own adapter after the warm-up, although that adapter was
    trained on these rows. The adapter that it goes on training alone is not compared: the longer it is trained, the
    better it fits its few rows, without learning the task. Two clients that choose each other train one expert from
    then on.

    Attributes:
        method: FedLEASE with halves and without routing, wrapped or not.
        most: largest number of experts that a client compares, those with the most clients.
    """

    most: int = 8

    STATE: ClassVar[type[WrapperState]] = ByLossState

    def task(self, state: ByLossState, client: ClientId) -> ClientTask | None:
        """The wrapped method's task; an unsure client first chooses among its warm-up and the experts of others."""
        task: ClientTask | None = self.method.task(state.inner, client)
        if task is None or task.phase != EXPERTS or not (others := self._others(state, client)):
            return task
        candidates = (state.warmups[client], *(state.experts[expert] for expert in others))
        return replace(task, model=replace(task.model, candidates=candidates, reference=True))

    def aggregate(
        self, state: ByLossState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> ByLossState:
        """Moves clients to the experts that they have chosen, then aggregates as the wrapped method does."""
        chosen = {u.client: self._others(state, u.client)[u.choice - 1] for u in updates if u.choice}
        inner = state.inner
        if chosen:
            inner = with_innermost(inner, _moved(innermost(inner), chosen))
        after = self.method.aggregate(inner, [replace(update, choice=None) for update in updates], absent)
        if after.experts and not state.experts:
            # The first expert of a client that is alone is its own warm-up.
            return replace(state, inner=after, warmups=_alone(after))
        notes = [
            f"in round {state.round} client {client!r}, which had not learnt its task before, joined "
            f"{expert_name(after.assignment[client])}, which fits its rows better than its warm-up"
            for client in sorted(chosen)
        ]
        warmups = {client: tensors for client, tensors in state.warmups.items() if client not in chosen}
        return replace(state, inner=after, warmups=warmups, joined=(*state.joined, *notes))

    def _others(self, state: ByLossState, client: ClientId) -> list[int]:
        """The experts that a client may choose; [] if it is not unsure or no longer alone."""
        own = state.assignment.get(client)
        sizes = Counter(state.assignment.values())
        if client not in state.warmups or own is None or sizes[own] > 1:
            return []
        return sorted(sorted(sizes.keys() - {own}, key=lambda expert: (-sizes[expert], expert))[: self.most])


def _alone(state: State) -> dict[ClientId, Tensors]:
    """Unsure client that is alone -> its expert."""
    sizes = Counter(state.assignment.values())
    unsure = () if state.allocation is None else state.allocation.unsure
    alone = [client for client in unsure if sizes[state.assignment[client]] == 1]
    return {client: state.experts[state.assignment[client]] for client in alone}


@serialisable
@dataclass(frozen=True, kw_only=True)
class JoinLaterState(JoinedState):
    """The state of FedLEASE with halves, with notes about clients that have joined others.

    Attributes:
        inner: state of FedLEASE with halves.
    """

    inner: HalvesState


@dataclass(frozen=True)
class JoinLater(Wrapper):
    """Lets clients that had not learnt their task join a group once their own expert shows that they have its task.

    Between rounds, the expert that such a client has trained alone is compared with the warm-ups of every group, on the
    scale by which the groups were made (:mod:`fedlease.core.directions`). Other clients do not move.

    Attributes:
        method: FedLEASE with halves.
        every: rounds between two comparisons; nothing is compared after the last round.
    """

    method: Halves
    every: int = 1

    STATE: ClassVar[type[WrapperState]] = JoinLaterState

    def aggregate(
        self, state: JoinLaterState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> JoinLaterState:
        """The wrapped method's aggregation, after which clients may join groups where that is due."""
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
    """The state after unsure clients have joined the chosen experts; empty experts are removed, others renumbered."""
    assert state.allocation is not None  # clients choose only after the allocation
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
    """The end of a chain of choices: an expert whose client has not chosen, or the smallest expert of a cycle."""
    passed: list[int] = []
    while expert in links and expert not in passed:
        passed.append(expert)
        expert = links[expert]
    return min(passed[passed.index(expert) :]) if expert in passed else expert
