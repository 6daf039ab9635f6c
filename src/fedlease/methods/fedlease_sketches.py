"""FedLEASE whose server sees only sketches of warm-ups, while clients keep their A and B until clusters are known.

The warm-up has one more step: once the clients are grouped by their sketches, each cluster's clients upload their
warm-ups, whose mean is the first expert; with ``privacy.secure_sums``, this is a secure sum.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from fedlease.core.choices import Signal
from fedlease.core.codec import serialisable
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Sketch, Tensors
from fedlease.core.wording import expert_name
from fedlease.methods.base import by_client
from fedlease.methods.fedlease import FedLease, FedLeaseState
from fedlease.methods.warmup import WARMUP, WARMUP_TRIES

__all__ = ["START", "SketchedFedLease", "SketchedState"]

START = "start"
"""The phase between warm-up and rounds."""


@serialisable
@dataclass(frozen=True, kw_only=True)
class SketchedState(FedLeaseState):
    """State of a run with sketches.

    Attributes:
        begun: cluster -> the mean of its warm-ups, until all clusters have one.
        starts: number of times that warm-ups were requested.
    """

    begun: Mapping[int, Tensors] = field(default_factory=dict)
    starts: int = 0


@dataclass(frozen=True)
class SketchedFedLease(FedLease):
    """Parameters of FedLEASE with sketches, which its ``grouping`` gets in the place of B.

    Attributes:
        numbers: size of a client's sketches over all modules, at least 1.
        signal: the matrices that are sketched.
    """

    numbers: int = 1
    signal: Signal = "B"

    state: ClassVar[type[FedLeaseState]] = SketchedState

    def task(self, state: FedLeaseState, client: ClientId) -> ClientTask | None:
        """FedLEASE's task, with a sketched warm-up; between the phases, a request to upload the kept warm-up."""
        assert isinstance(state, SketchedState)
        if client in state.assignment and not state.experts:
            model, begun = self.model(state, client), state.assignment[client] in state.begun
            return None if begun else ClientTask(START, state.round, model, (), upload=model.names("AB"))
        task = super().task(state, client)
        if task is None or task.phase != WARMUP:
            return task
        return replace(task, sketch=self.sketch(state))

    def sketch(self, state: FedLeaseState) -> Sketch:
        """The rule for sketches: all modules have equally many numbers."""
        return Sketch(math.ceil(self.numbers / len(state.adapter.spec.target_modules)), self.signal, state.seed)

    def aggregate(
        self, state: FedLeaseState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> FedLeaseState:
        """FedLEASE's aggregation; between the phases, makes the first experts, or asks clusters without one again."""
        assert isinstance(state, SketchedState)
        if state.allocation is None or state.experts:
            return super().aggregate(state, updates, absent)
        updates = by_client(updates)
        state = self.placed(state, [update for update in updates if update.phase == WARMUP])
        means = self.means_of([update for update in updates if update.phase == START], state.assignment)
        state = replace(state, begun={**state.begun, **means}, starts=state.starts + 1)
        assert state.allocation is not None  # this branch comes after the allocation
        lacking = [expert for expert in range(state.allocation.num_experts) if expert not in state.begun]
        if lacking and state.starts < WARMUP_TRIES:
            return state
        common = {name: state.adapter.tensors[name] for name in sorted(state.adapter.names("AB"))}
        notes = [
            f"{expert_name(expert)} starts from the common adapter, as the warm-ups of its clients could not be summed"
            for expert in lacking
        ]
        experts = {**dict.fromkeys(lacking, common), **state.begun}
        return self.with_experts(replace(state, round=1, begun={}, notes=(*state.notes, *notes)), experts)

    def model(self, state: FedLeaseState, client: ClientId) -> ClientModel:
        """FedLEASE's model; before the first experts, the common adapter, which clients replace by their warm-up."""
        if client in state.assignment and state.experts:
            return super().model(state, client)
        return replace(state.adapter, warmed=True)

    def grouped(
        self, state: FedLeaseState, uploads: Mapping[ClientId, Tensors], warmups: Mapping[ClientId, Tensors]
    ) -> FedLeaseState:
        """Groups the clients by their sketches; round 1 starts only when the first experts are known."""
        return replace(self.allocated(state, uploads, warmups), round=0)
