"""FedLEASE whose server sees sketches of warm-ups: clients keep their A and B until their clusters are known.

The warm-up is one step longer: once the clients are grouped by their sketches, each cluster's clients give their
warm-ups to its first expert, in a secure sum where ``privacy.secure_sums`` says so.
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
        begun: cluster -> the mean of its warm-ups, until all clusters have theirs.
        starts: how often they were asked for.
    """

    begun: Mapping[int, Tensors] = field(default_factory=dict)
    starts: int = 0


@dataclass(frozen=True)
class SketchedFedLease(FedLease):
    """Parameters of FedLEASE, whose ``grouping`` finds sketches in the place of B.

    Attributes:
        numbers: that a client sends of its warm-up, over all modules; at least 1.
        signal: what is sketched.
    """

    numbers: int = 1
    signal: Signal = "B"

    state: ClassVar[type[FedLeaseState]] = SketchedState

    def task(self, state: FedLeaseState, client: ClientId) -> ClientTask | None:
        """FedLEASE's, with a warm-up that is sketched; between the phases, to send what was kept of it."""
        assert isinstance(state, SketchedState)
        if client in state.assignment and not state.experts:
            model, begun = self.model(state, client), state.assignment[client] in state.begun
            return None if begun else ClientTask(START, state.round, model, (), upload=model.names("AB"))
        task = super().task(state, client)
        if task is None or task.phase != WARMUP:
            return task
        return replace(task, sketch=self.sketch(state))

    def sketch(self, state: FedLeaseState) -> Sketch:
        """How warm-ups are sketched: all modules by equally many numbers."""
        return Sketch(math.ceil(self.numbers / len(state.adapter.spec.target_modules)), self.signal, state.seed)

    def aggregate(
        self, state: FedLeaseState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> FedLeaseState:
        """FedLEASE's; in between, the first experts: a cluster whose warm-ups have not come is asked once more."""
        assert isinstance(state, SketchedState)
        if state.allocation is None or state.experts:
            return super().aggregate(state, updates, absent)
        updates = by_client(updates)
        state = self.placed(state, [update for update in updates if update.phase == WARMUP])
        means = self.means_of([update for update in updates if update.phase == START], state.assignment)
        state = replace(state, begun={**state.begun, **means}, starts=state.starts + 1)
        assert state.allocation is not None  # warm-ups are asked for by cluster
        lacking = [expert for expert in range(state.allocation.num_experts) if expert not in state.begun]
        if lacking and state.starts < WARMUP_TRIES:
            return state
        common = {name: state.adapter.tensors[name] for name in sorted(state.adapter.names("AB"))}
        notes = [
            f"{expert_name(expert)} begins from the common adapter: the warm-ups of its clients could not be summed"
            for expert in lacking
        ]
        experts = {**dict.fromkeys(lacking, common), **state.begun}
        return self.with_experts(replace(state, round=1, begun={}, notes=(*state.notes, *notes)), experts)

    def model(self, state: FedLeaseState, client: ClientId) -> ClientModel:
        """FedLEASE's; before the first experts the common adapter, over which the client lays the warm-up it keeps."""
        if client in state.assignment and state.experts:
            return super().model(state, client)
        return replace(state.adapter, warmed=True)

    def grouped(
        self, state: FedLeaseState, uploads: Mapping[ClientId, Tensors], warmups: Mapping[ClientId, Tensors]
    ) -> FedLeaseState:
        """Groups the clients by their sketches; the experts are still to come, and so is round 1."""
        return replace(self.allocated(state, uploads, warmups), round=0)
