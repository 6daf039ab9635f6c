"""FedLEASE whose first phase knows how sure it is: warm-ups on halves, which may end as soon as the groups are sure.

Ours. A client that trains two halves of its rows apart shows how much of its B is its task and how much the noise of
its rows (:mod:`fedlease.core.reliability`); clients are grouped by similarities that are corrected for it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from fedlease.core.adapters import expert_tensors, renumber, whole
from fedlease.core.allocate import regrouped
from fedlease.core.choices import Signal, Unsure
from fedlease.core.codec import serialisable
from fedlease.core.directions import group_directions
from fedlease.core.merging import SURE
from fedlease.core.sketch import is_sketch
from fedlease.core.types import Allocation, ClientId, ClientModel, ClientTask, ClientUpdate, Tensors
from fedlease.core.wording import counted, listed
from fedlease.methods.fedlease import EXPERTS, FedLease, FedLeaseState
from fedlease.methods.fedlease_similarity import FEW_ROWS, BySimilarity
from fedlease.methods.fedlease_sketches import START
from fedlease.methods.warmup import WARMUP, warmup_stages
from fedlease.methods.wrapper import Wrapper, WrapperState

__all__ = ["Halves", "HalvesState", "moved"]

ALONE_PASSES = 4
"""Without rounds there are none to take passes from: a client with few rows then makes at most so many times E."""


@serialisable
@dataclass(frozen=True, kw_only=True)
class HalvesState(WrapperState):
    """FedLEASE's state, and what halves have shown.

    Attributes:
        inner: FedLEASE's.
        typical: train rows of a client that makes E passes: the median at the start, or the upper quartile / E if more.
        halves: client -> A and B of its halves, as long as it is to be grouped by them or to choose.
        passes: client -> passes over its rows in the warm-up, and those that its first round made up for.
        again: clients that go on with their halves, as their groups were not sure half-way; None before that is known.
        unsure: clients that are still to choose an expert by its loss on their own rows.
        found: plain sentences about both.
    """

    inner: FedLeaseState
    typical: float = 0.0
    halves: Mapping[ClientId, Tensors] = field(default_factory=dict)
    passes: Mapping[ClientId, int] = field(default_factory=dict)
    again: frozenset[ClientId] | None = None
    unsure: frozenset[ClientId] = frozenset()
    found: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of FedLEASE, and what became of unsure clients."""
        return (*self.inner.notes, *self.found)


@dataclass(frozen=True)
class Halves(Wrapper):
    """Warms up on halves, and groups the clients by corrected similarity.

    All clients make about as many steps, since B turns while it is trained. A client with the median number of rows
    makes E passes, unless those with many rows could not make as few steps in a single pass; one with few rows makes
    more, by at most those of a quarter of the rounds, and one with many makes fewer. Nobody exceeds its T passes: a
    client sits out the first rounds for what it made beyond E, or makes in its first round what it lacks.

    With ``early`` the clients are grouped after E/2 passes, rounded up, or after all of theirs where those are fewer.
    Groups in which somebody's place is not sure then go on with their halves, to equal steps, and all are grouped
    again; other clients make the rest of E in their first round, from their group's mean.

    Attributes:
        method: FedLEASE itself.
        by_similarity: whether corrected similarities group the clients; False leaves the grouping of ``method``.
        signal: what is compared.
        early: whether clients are grouped half-way already; needs rounds, and passes that may differ.
        unsure: what becomes of a client that has not learnt in the end: it stands ``alone``, or joins in round 1 the
            expert with the lowest ``loss`` on its rows, its own among them.
        same_passes: all clients make the same passes, on halves too where their rows are few.
    """

    method: FedLease
    by_similarity: bool = True
    signal: Signal = "BA"
    early: bool = False
    unsure: Unsure = "alone"
    same_passes: bool = False

    STATE: ClassVar[type[WrapperState]] = HalvesState

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> HalvesState:
        """FedLEASE's first state."""
        rows = list(clients.values())
        typical = max(float(np.median(rows)), float(np.quantile(rows, 0.75)) / self.budget.warmup_epochs)
        return HalvesState(inner=self.method.init(adapter, clients, seed), typical=typical)

    def task(self, state: HalvesState, client: ClientId) -> ClientTask | None:
        """A warm-up on halves; later FedLEASE's task, after the rounds whose passes the warm-up has made."""
        task = self.method.task(state.inner, client)
        if task is None:
            return None
        if task.phase == WARMUP:
            return self._warmup(state, client, task)
        if task.phase == START:
            return task
        if state.round <= self._rounds_ahead(state, client):
            return None
        lacking = max(0, self.budget.warmup_epochs - state.passes.get(client, 0))
        task = replace(task, stages=tuple(replace(stage, epochs=stage.epochs + lacking) for stage in task.stages))
        return self._choice(state, client, task) if client in state.unsure else task

    def aggregate(
        self, state: HalvesState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> HalvesState:
        """FedLEASE's aggregation; clients whose groups are not sure half-way are asked again before it."""
        state, received, chosen = self._received(state, updates)
        # A client that was to go on and does not answer is grouped by what it has learnt before.
        silent = [c for c in sorted(absent) if c in state.halves and c not in state.warmup.results]
        absent = {*absent}.difference(silent)
        received += [ClientUpdate(c, WARMUP, state.round, state.clients[c], whole(state.halves[c])) for c in silent]
        method = self.method
        if self.by_similarity:
            method = replace(method, grouping=BySimilarity(state.halves, self.signal))
        inner = moved(state.inner, chosen) if chosen else state.inner
        after = method.aggregate(inner, received, absent)
        allocation = after.allocation
        if allocation is None:
            return replace(state, inner=after)
        if inner.allocation is None:
            if self._early(state):
                state = self._half_way(state, allocation)
                if state.again:
                    warmup = inner.warmup.collect(received, absent).without(state.again)
                    return replace(state, inner=replace(inner, warmup=warmup))
            state = self._grouped(replace(state, inner=after), allocation)
        else:
            unsure = state.unsure.difference(chosen)
            halves = {c: t for c, t in state.halves.items() if c not in after.assignment or c in unsure}
            found = (*state.found, *_joined(inner, chosen))
            state = replace(state, inner=after, halves=halves, unsure=unsure, found=found)
        if inner.experts or not after.experts:
            return state
        # A round that nobody has passes left for would be empty.
        first = 1 + min(self._rounds_ahead(state, client) for client in state.clients)
        return replace(state, inner=replace(state.inner, round=first))

    def model(self, state: HalvesState, client: ClientId) -> ClientModel:
        """FedLEASE's; before the allocation what its halves have learnt."""
        known = state.halves.get(client)
        if known is not None and client not in state.assignment and not is_sketch(known):
            return ClientModel(state.adapter.spec, whole(known))
        return self.method.model(state.inner, client)

    def _received(
        self, state: HalvesState, updates: Sequence[ClientUpdate]
    ) -> tuple[HalvesState, list[ClientUpdate], dict[ClientId, int]]:
        """The state with the halves and passes of updates; these as FedLEASE takes them; client -> chosen expert."""
        halves, passes, received, chosen = dict(state.halves), dict(state.passes), [], {}
        for update in updates:
            client = update.client
            if update.phase == WARMUP:
                passes[client] = passes.get(client, 0) + self._epochs(state, client)
                if expert_tensors(update.tensors, 1):
                    halves[client] = update.tensors
                if state.allocation is None:
                    update = replace(update, tensors=whole(update.tensors))
            elif update.phase == EXPERTS:
                passes[client] = max(passes.get(client, 0), self.budget.warmup_epochs)
                if update.choice is not None:
                    # The first two candidates are what the client has learnt itself.
                    chosen[client] = self._experts(state, client)[max(0, update.choice - 1)]
                    update = replace(update, choice=None)
            received.append(update)
        return replace(state, halves=halves, passes=passes), received, chosen

    def _half_way(self, state: HalvesState, allocation: Allocation) -> HalvesState:
        """The state that knows which clients go on, since their groups are not sure, and says so."""
        state = replace(state, again=frozenset())
        sure = {c for c, odds in allocation.evidence.items() if odds >= SURE}.difference(allocation.unsure)
        doubted = {expert for client, expert in allocation.assignment.items() if client not in sure}
        asked = [c for c in allocation.clients if allocation.assignment[c] in doubted and c in state.halves]
        again = [client for client in asked if self._epochs(state, client)]
        found = "clients were grouped half-way through the warm-up"
        if again:
            few = f"{len(again)} of {counted(len(allocation.clients), 'client')}"
            found = f"half-way through the warm-up the groups of {few} were not sure, which went on: {listed(again, 3)}"
        return replace(state, again=frozenset(again), found=(found,))

    def _grouped(self, state: HalvesState, allocation: Allocation) -> HalvesState:
        """The state after the groups are made: it keeps the halves of those who are to choose, and the groups' own."""
        inner = state.inner
        if self.by_similarity:
            directions = group_directions(state.halves, allocation, self.signal, self.method.columns)
            inner = replace(inner, centroids=directions)
        asked = self.unsure == "loss" and allocation.num_experts > 1
        unsure = frozenset(allocation.unsure if asked else ())
        halves = {client: tensors for client, tensors in state.halves.items() if client in unsure}
        return replace(state, inner=inner, halves=halves, unsure=unsure)

    def _warmup(self, state: HalvesState, client: ClientId, task: ClientTask) -> ClientTask:
        if self._few(state.clients[client]):
            return task
        stages = warmup_stages(task.trainable, self._epochs(state, client), self.budget)
        kept = is_sketch(state.halves.get(client, {}))  # by the client alone
        model = replace(task.model, candidates=() if kept else _halves_of(state, client), warmed=kept)
        return replace(task, model=model, stages=stages, halves=True)

    def _epochs(self, state: HalvesState, client: ClientId) -> int:
        """Passes of the client's next warm-up; 0 when it has made all."""
        spent: int = state.passes.get(client, 0)
        budget, rows = self.budget, state.inner.clients[client]
        if self.same_passes or self._few(rows):
            return 0 if spent else budget.warmup_epochs
        every = max(1, min(round(budget.warmup_epochs * state.typical / rows), budget.warmup_epochs + self._spare))
        half_way = not spent and state.allocation is None and self._early(state)
        return min(every, -(-budget.warmup_epochs // 2)) if half_way else every - spent

    def _early(self, state: HalvesState) -> bool:
        """Whether the clients are still to be grouped half-way."""
        return self.early and state.again is None and self.budget.rounds > 0 and not self.same_passes

    def _few(self, rows: int) -> bool:
        """Whether a client's rows are too few for halves."""
        return rows < (2 if self.same_passes else FEW_ROWS)

    @property
    def _spare(self) -> int:
        """Passes beyond E that a client with few rows may make, in whole rounds."""
        budget = self.budget
        if not budget.rounds:
            return (ALONE_PASSES - 1) * budget.warmup_epochs
        return budget.rounds // 4 * budget.local_epochs

    def _rounds_ahead(self, state: HalvesState, client: ClientId) -> int:
        """Rounds whose passes the client has made in its warm-up."""
        extra = state.passes.get(client, 0) - self.budget.warmup_epochs
        return math.ceil(max(0, extra) / self.budget.local_epochs)

    def _choice(self, state: HalvesState, client: ClientId, task: ClientTask) -> ClientTask:
        """The task from the expert that fits the client's rows best, whoever trained it."""
        _, *others = self._experts(state, client)
        if task.model.spec.num_experts > 1 or not others:
            return task
        # A client with few rows has learnt nothing worth more than the common start.
        start = {name: state.adapter.tensors[name] for name in state.adapter.names("AB")}
        candidates = (*(_halves_of(state, client) or (start, start)), *(state.experts[expert] for expert in others))
        return replace(task, model=replace(task.model, candidates=candidates), refit=True)

    def _experts(self, state: HalvesState, client: ClientId) -> list[int]:
        """The experts that a client chooses among: its own, which a tie leaves it with, and those that were learnt."""
        assert state.allocation is not None  # nobody is unsure before it
        own = state.assignment[client]
        learnt = {expert for c, expert in state.assignment.items() if c not in state.allocation.unsure}
        return [own, *sorted(learnt - {own})]


def _halves_of(state: HalvesState, client: ClientId) -> tuple[Tensors, ...]:
    """What either half has learnt, numbered as expert 0; () before."""
    halves = state.halves.get(client)
    return () if halves is None else tuple(renumber(expert_tensors(halves, half), 0) for half in (0, 1))


def moved(state: FedLeaseState, chosen: Mapping[ClientId, int]) -> FedLeaseState:
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


def _joined(state: FedLeaseState, chosen: Collection[ClientId]) -> list[str]:
    """What became of clients that have chosen."""
    notes = []
    for client in sorted(chosen):
        own = state.assignment[client]
        others = [other for other in sorted(state.assignment) if state.assignment[other] == own and other != client]
        became = f"joined {', '.join(others[:3])}" if others else "stays alone, as no other expert does better"
        notes.append(f"client {client!r}, which had not learnt its task, {became}, by the loss on its own rows")
    return notes
