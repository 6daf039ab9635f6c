"""Variations of FedLEASE that go around the method, with a state of their own where they need one."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from fedlease.core.adapters import renumber, whole
from fedlease.core.choices import RouterStart
from fedlease.core.codec import serialisable
from fedlease.core.sketch import is_sketch
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, TensorName, Tensors
from fedlease.core.wording import counted
from fedlease.methods.base import by_client
from fedlease.methods.fedlease import EXPERTS
from fedlease.methods.warmup import WARMUP
from fedlease.methods.wrapper import Wrapper, WrapperState

__all__ = ["KeepOut", "Magnitude", "OwnStart", "Selection"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class SelectionState(WrapperState):
    """FedLEASE's state, and what does not go together in the selection.

    Attributes:
        findings: plain sentences.
    """

    findings: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the method within, and the findings."""
        return (*self.inner.notes, *self.findings)


@dataclass(frozen=True)
class Selection(Wrapper):
    """Changes which slots of the router count, and who learns it.

    Attributes:
        top_k: slots kept; None keeps M, the adaptive selection. With 1 only the largest slot counts. Where the
            allocation leaves fewer than ``top_k`` slots, 2M - 1, all are kept and a note says so.
        renormalise: whether kept slot weights sum to 1; False leaves them as the softmax over all slots gave them.
        private: whether every client has a router of its own instead of its cluster's.
        router_start: that of the method within, for the notes.
    """

    top_k: int | None = None
    renormalise: bool = True
    private: bool = False
    router_start: RouterStart = "random"

    STATE: ClassVar[type[WrapperState]] = SelectionState

    def task(self, state: SelectionState, client: ClientId) -> ClientTask | None:
        """The task, with the selection, and without uploading a router that is private."""
        task = self.method.task(state.inner, client)
        if task is None:
            return None
        upload = task.upload - task.model.names("G") if self.private else task.upload
        return replace(task, model=self._selected(task.model), upload=upload)

    def aggregate(
        self, state: SelectionState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> SelectionState:
        """The aggregation of the method within; a note where the selection does not go with the number of experts."""
        after = self.method.aggregate(state.inner, updates, absent)
        found = self._finding(len(after.experts))
        new = (found,) if found and found not in state.findings else ()
        return replace(state, inner=after, findings=(*state.findings, *new))

    def model(self, state: SelectionState, client: ClientId) -> ClientModel:
        """The model, with the selection."""
        return self._selected(self.method.model(state.inner, client))

    def _selected(self, model: ClientModel) -> ClientModel:
        if model.spec.mixer != "top_m":
            return model
        top_k = None if self.top_k is None else min(self.top_k, 2 * model.spec.num_experts - 1)
        return replace(model, spec=replace(model.spec, top_k=top_k, renormalise=self.renormalise))

    def _finding(self, num_experts: int) -> str:
        slots, kept = 2 * num_experts - 1, self.top_k
        if num_experts < 2 or kept is None:
            return ""
        if kept > slots:
            return (
                f"fedlease.top_k: {kept} slots were to be kept, but {counted(num_experts, 'expert')} make {slots}: "
                "all are kept"
            )
        if kept == 1 and self.renormalise:
            return (
                "fedlease.top_k: the one slot that is kept weighs 1 whatever its logit is, so routers are not trained "
                "and stay as they were drawn; fedlease.renormalise=false trains them"
            )
        if kept <= num_experts // 2 and self.router_start == "own" and self.renormalise:
            return (
                f"fedlease.top_k: with router_start = 'own' the {kept} largest of {slots} slots are own ones at first: "
                "the router has next to nothing to learn from"
            )
        return ""


@serialisable
@dataclass(frozen=True, kw_only=True)
class OwnStartState(WrapperState):
    """The state within, and where round 1 goes on from.

    Attributes:
        starts: client -> its warm-up; {} after round 1.
    """

    starts: Mapping[ClientId, Tensors] = field(default_factory=dict)


@dataclass(frozen=True)
class OwnStart(Wrapper):
    """In round 1 every client goes on from its own warm-up, and the first mean is taken after it.

    Later the experts have moved on: a client that was not asked in round 1 goes on from its expert.
    """

    STATE: ClassVar[type[WrapperState]] = OwnStartState

    def task(self, state: OwnStartState, client: ClientId) -> ClientTask | None:
        """The task; in round 1 the own expert is the client's warm-up."""
        task = self.method.task(state.inner, client)
        if task is None or task.phase != EXPERTS or client not in state.starts:
            return task
        start = renumber(whole(state.starts[client]), task.model.spec.own)
        return replace(task, model=replace(task.model, tensors={**task.model.tensors, **start}))

    def aggregate(
        self, state: OwnStartState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> OwnStartState:
        """The aggregation of the method within; warm-ups are remembered until round 1 is over."""
        collecting = state.allocation is None
        starts = {**state.starts, **{update.client: update.tensors for update in updates}} if collecting else {}
        return replace(state, inner=self.method.aggregate(state.inner, updates, absent), starts=starts)


@serialisable
@dataclass(frozen=True, kw_only=True)
class MagnitudeState(WrapperState):
    """The state within; magnitudes are the clients'."""


@dataclass(frozen=True)
class Magnitude(Wrapper):
    """Gives every client a number of its own for each rank of its expert: B diag(G) A, with G trained and never sent.

    G begins where it changes nothing, and stays with the client whatever becomes of the expert. Trained is G / gain,
    scaled back with alpha, so that an optimiser that steps alike in all weights changes it ``gain`` times as fast.

    Attributes:
        gain: how much faster G learns than A and B, above 0.
    """

    gain: float = 1.0

    STATE: ClassVar[type[WrapperState]] = MagnitudeState

    def task(self, state: WrapperState, client: ClientId) -> ClientTask | None:
        """The task; its stages train G, too, which is not uploaded."""
        task = self.method.task(state.inner, client)
        if task is None or task.phase != EXPERTS:
            return task
        model = self._scaled(task.model)
        stages = tuple(replace(stage, trainable=stage.trainable | model.names("G")) for stage in task.stages)
        return replace(task, model=model, stages=stages)

    def model(self, state: WrapperState, client: ClientId) -> ClientModel:
        """The model; before the allocation it has no expert, and no G."""
        model = self.method.model(state.inner, client)
        return self._scaled(model) if client in state.assignment else model

    def _scaled(self, model: ClientModel) -> ClientModel:
        spec = replace(model.spec, mixer="magnitude", alpha=model.spec.alpha * self.gain)
        cores = {str(TensorName(module, "G")): torch.full((spec.r,), 1 / self.gain) for module in spec.target_modules}
        return replace(model, spec=spec, tensors={**model.tensors, **cores})


@serialisable
@dataclass(frozen=True, kw_only=True)
class KeepOutState(WrapperState):
    """The state within, and who waits.

    Attributes:
        newcomers: clients that were not there at the start.
        kept_out: client -> its warm-up, of newcomers that are unlike every expert.
        refusals: plain sentences about them.
    """

    newcomers: frozenset[ClientId] = frozenset()
    kept_out: Mapping[ClientId, Tensors] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """The refusals, and those of the method within: who is placed in the end was kept out before."""
        return (*self.refusals, *self.inner.notes)


@dataclass(frozen=True)
class KeepOut(Wrapper):
    """A newcomer whose warm-up is farther from every expert than the expert's own clients are is not placed.

    Clients that were there at the start are placed however unlike they are.

    Attributes:
        admitted: newcomers that are placed all the same, those kept out so far too.
        everyone: whether all are; a parameter, so that a run may be resumed with the other value on the same state.
    """

    admitted: tuple[ClientId, ...] = ()
    everyone: bool = False

    STATE: ClassVar[type[WrapperState]] = KeepOutState

    def task(self, state: KeepOutState, client: ClientId) -> ClientTask | None:
        """Nothing for a client that is kept out."""
        return None if client in state.kept_out else self.method.task(state.inner, client)

    def aggregate(
        self, state: KeepOutState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> KeepOutState:
        """The aggregation of the method within, which sees no warm-up of a client that is kept out."""
        admitted = {*state.clients} if self.everyone else {*self.admitted}
        kept_out = {client: tensors for client, tensors in state.kept_out.items() if client not in admitted}
        # Warm-ups of those that have been admitted since.
        passed = [
            ClientUpdate(client, WARMUP, state.round, state.clients[client], tensors)
            for client, tensors in state.kept_out.items()
            if client in admitted
        ]
        refusals = list(state.refusals)
        for update in by_client(updates):
            new = update.client in state.newcomers and update.client not in admitted
            if update.phase == WARMUP and new and state.centroids is not None:
                placement = state.centroids.place(update.tensors)
                if placement.unlike:
                    kept_out[update.client] = update.tensors
                    refusals.append(
                        f"client {update.client!r} came late and is kept out: {placement.why_out}; fedlease.admitted "
                        "takes it in"
                    )
                    continue
            passed.append(update)
        after = self.method.aggregate(state.inner, passed, absent)
        return replace(state, inner=after, kept_out=kept_out, refusals=tuple(refusals))

    def model(self, state: KeepOutState, client: ClientId) -> ClientModel:
        """A client that is kept out has its warm-up in the meantime."""
        if client in state.kept_out and not is_sketch(state.kept_out[client]):
            return ClientModel(state.adapter.spec, whole(state.kept_out[client]))
        return self.method.model(state.inner, client)

    def admit(self, state: KeepOutState, client: ClientId, num_examples: int) -> KeepOutState:
        """The method within admits it, and it is remembered as a newcomer."""
        inner = self.method.admit(state.inner, client, num_examples)
        return replace(state, inner=inner, newcomers=state.newcomers | {client})
