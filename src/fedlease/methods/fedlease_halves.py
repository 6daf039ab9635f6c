"""FedLEASE with warm-ups on two halves of each client's rows, which show how reliable the warm-ups are (our own).

The similarity between the two halves' parts of B shows how much of B is the client's task and how much is noise of its
rows (:mod:`fedlease.core.reliability`). Clients are grouped by similarities that are corrected for this.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from fedlease.core.adapters import expert_tensors, whole
from fedlease.core.choices import Signal
from fedlease.core.codec import serialisable
from fedlease.core.directions import group_directions
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Tensors
from fedlease.methods.fedlease import EXPERTS, FedLease, FedLeaseState
from fedlease.methods.fedlease_similarity import FEW_ROWS, BySimilarity
from fedlease.methods.fedlease_sketches import START
from fedlease.methods.warmup import WARMUP, warmup_stages
from fedlease.methods.wrapper import Wrapper, WrapperState

__all__ = ["Halves", "HalvesState"]

ALONE_PASSES = 4
"""Most warm-up passes of a client with few rows, in multiples of E, if there are no rounds to take passes from."""


@serialisable
@dataclass(frozen=True, kw_only=True)
class HalvesState(WrapperState):
    """FedLEASE's state with the halves of warm-ups.

    Attributes:
        inner: FedLEASE's state.
        typical: train rows of a client that makes E passes: the median of all clients at the start, or their upper
            quartile divided by E if that is more.
        halves: client -> A and B of its halves, numbered as experts 0 and 1, until the client is grouped.
        passes: client -> passes that it has made in its warm-up; after its first round, at least E.
    """

    inner: FedLeaseState
    typical: float = 0.0
    halves: Mapping[ClientId, Tensors] = field(default_factory=dict)
    passes: Mapping[ClientId, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Halves(Wrapper):
    """Trains warm-ups on two halves of the rows, and groups the clients by corrected similarity.

    B turns while it is trained, so all clients should make about the same number of steps. A client with the median
    number of rows makes E passes. A client with fewer rows makes more passes, by at most those of a quarter of the
    rounds; one with more rows makes fewer, but at least one. If a single pass of clients with many rows has more steps
    than that, the others make more passes too. All clients make T passes in total: a client that made more than E
    passes sits out the first rounds, and one that made fewer makes up for them in its first round.

    Attributes:
        method: FedLEASE itself.
        by_similarity: whether clients are grouped by corrected similarities; False uses the grouping of ``method``.
        signal: the matrices that are compared.
        private: whether noise covers every row, which was computed beforehand: all clients make the same passes, even
            those with few rows train on halves, and A and heads rest in the warm-up.
    """

    method: FedLease
    by_similarity: bool = True
    signal: Signal = "BA"
    private: bool = False

    STATE: ClassVar[type[WrapperState]] = HalvesState

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> HalvesState:
        """FedLEASE's first state."""
        rows = list(clients.values())
        typical = max(float(np.median(rows)), float(np.quantile(rows, 0.75)) / self.budget.warmup_epochs)
        return HalvesState(inner=self.method.init(adapter, clients, seed), typical=typical)

    def task(self, state: HalvesState, client: ClientId) -> ClientTask | None:
        """A warm-up on halves; later FedLEASE's task, with the passes adjusted for those of the warm-up."""
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
        return replace(task, stages=tuple(replace(stage, epochs=stage.epochs + lacking) for stage in task.stages))

    def aggregate(
        self, state: HalvesState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> HalvesState:
        """FedLEASE's aggregation of whole adapters, with a grouping by halves."""
        state, received = self._received(state, updates)
        method = self.method
        if self.by_similarity:
            method = replace(method, grouping=BySimilarity(state.halves, self.signal, self.private))
        after = method.aggregate(state.inner, received, absent)
        if after.allocation is None:
            return replace(state, inner=after)
        if state.inner.allocation is None and self.by_similarity:
            directions = group_directions(
                state.halves, after.allocation, self.signal, self.method.columns, rested=self.private
            )
            after = replace(after, centroids=directions)
        begun = bool(after.experts) and not state.inner.experts
        halves = {client: tensors for client, tensors in state.halves.items() if client not in after.assignment}
        state = replace(state, inner=after, halves=halves)
        if not begun:
            return state
        # Skips rounds that every client sits out.
        first = 1 + min(self._rounds_ahead(state, client) for client in state.clients)
        return replace(state, inner=replace(after, round=first))

    def _received(self, state: HalvesState, updates: Sequence[ClientUpdate]) -> tuple[HalvesState, list[ClientUpdate]]:
        """The state with the halves and passes of the updates, and the updates with whole adapters, for FedLEASE."""
        halves, passes, received = dict(state.halves), dict(state.passes), []
        for update in updates:
            client = update.client
            if update.phase == WARMUP:
                passes[client] = self._epochs(state, client)
                if expert_tensors(update.tensors, 1):
                    halves[client] = update.tensors
                # A late client is placed by its halves.
                if state.allocation is None:
                    update = replace(update, tensors=whole(update.tensors))
            elif update.phase == EXPERTS:
                passes[client] = max(passes.get(client, 0), self.budget.warmup_epochs)
            received.append(update)
        return replace(state, halves=halves, passes=passes), received

    def _warmup(self, state: HalvesState, client: ClientId, task: ClientTask) -> ClientTask:
        if self._few(state.clients[client]):
            return task
        stages = warmup_stages(task.trainable, self._epochs(state, client), self.budget)
        return replace(task, stages=stages, halves=True)

    def _epochs(self, state: HalvesState, client: ClientId) -> int:
        """Number of passes of the client's warm-up."""
        budget, rows = self.budget, state.inner.clients[client]
        if self.private or self._few(rows):
            return budget.warmup_epochs
        return max(1, min(round(budget.warmup_epochs * state.typical / rows), budget.warmup_epochs + self._spare))

    def _few(self, rows: int) -> bool:
        """Whether a client's rows are too few for halves."""
        return rows < (2 if self.private else FEW_ROWS)

    @property
    def _spare(self) -> int:
        """Most passes beyond E that a client with few rows may make, those of whole rounds."""
        budget = self.budget
        if not budget.rounds:
            return (ALONE_PASSES - 1) * budget.warmup_epochs
        return budget.rounds // 4 * budget.local_epochs

    def _rounds_ahead(self, state: HalvesState, client: ClientId) -> int:
        """Number of rounds whose passes the client has already made in its warm-up."""
        extra = state.passes.get(client, 0) - self.budget.warmup_epochs
        return math.ceil(max(0, extra) / self.budget.local_epochs)
