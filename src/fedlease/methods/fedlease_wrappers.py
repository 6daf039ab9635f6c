"""Variants of FedLEASE that are wrappers around the method."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from fedlease.core.adapters import renumber, whole
from fedlease.core.choices import RouterStart
from fedlease.core.codec import serialisable
from fedlease.core.sketch import is_sketch
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Tensors
from fedlease.core.wording import counted
from fedlease.methods.base import by_client
from fedlease.methods.fedlease import EXPERTS
from fedlease.methods.warmup import WARMUP
from fedlease.methods.wrapper import Wrapper, WrapperState

__all__ = ["KeepOut", "OwnStart", "Selection"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class SelectionState(WrapperState):
    """The wrapped state with findings about settings of the selection that do not fit together.

    Attributes:
        findings: one sentence each.
    """

    findings: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of the wrapped state, followed by ``findings``."""
        return (*self.inner.notes, *self.findings)


@dataclass(frozen=True)
class Selection(Wrapper):
    """Changes how the router's slots are selected and weighted, and who owns the router.

    Attributes:
        top_k: number of slots kept; None keeps M, the adaptive selection. If the allocation makes fewer than ``top_k``
            slots, 2M - 1, all are kept and a note says so.
        renormalise: whether the kept weights sum to 1; False keeps the weights of a softmax over all slots.
        private: whether every client has its own router instead of its cluster's.
        router_start: initial values of routers, for the notes.
    """

    top_k: int | None = None
    renormalise: bool = True
    private: bool = False
    router_start: RouterStart = "random"

    STATE: ClassVar[type[WrapperState]] = SelectionState

    def task(self, state: SelectionState, client: ClientId) -> ClientTask | None:
        """The wrapped method's task with the selection; a private router is not uploaded."""
        task = self.method.task(state.inner, client)
        if task is None:
            return None
        upload = task.upload - task.model.names("G") if self.private else task.upload
        return replace(task, model=self._selected(task.model), upload=upload)

    def aggregate(
        self, state: SelectionState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> SelectionState:
        """The wrapped method's aggregation, with a finding if the selection does not fit the number of experts."""
        after = self.method.aggregate(state.inner, updates, absent)
        found = self._finding(len(after.experts))
        new = (found,) if found and found not in state.findings else ()
        return replace(state, inner=after, findings=(*state.findings, *new))

    def model(self, state: SelectionState, client: ClientId) -> ClientModel:
        """The wrapped method's model with the selection."""
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
                f"fedlease.top_k: {kept} slots should be kept, but {counted(num_experts, 'expert')} have only {slots}, "
                "so all are kept"
            )
        if kept == 1 and self.renormalise:
            return (
                "fedlease.top_k: the only slot that is kept weighs 1 whatever its logit is, so routers are not trained"
                "; fedlease.renormalise=false trains them"
            )
        if kept <= num_experts // 2 and self.router_start == "own" and self.renormalise:
            return (
                f"fedlease.top_k: with router_start = 'own', the {kept} largest of {slots} slots are own ones at first"
                ", so the router hardly gets any gradient"
            )
        return ""


@serialisable
@dataclass(frozen=True, kw_only=True)
class OwnStartState(WrapperState):
    """The wrapped state with the warm-ups from which clients start round 1.

    Attributes:
        starts: client -> its warm-up; {} after round 1.
    """

    starts: Mapping[ClientId, Tensors] = field(default_factory=dict)


@dataclass(frozen=True)
class OwnStart(Wrapper):
    """Starts round 1 from each client's own warm-up instead of the mean of its cluster.

    A client that takes part only later starts from its expert, which has been trained further by then.
    """

    STATE: ClassVar[type[WrapperState]] = OwnStartState

    def task(self, state: OwnStartState, client: ClientId) -> ClientTask | None:
        """The wrapped method's task; in round 1, the own expert is replaced by the client's warm-up."""
        task = self.method.task(state.inner, client)
        if task is None or task.phase != EXPERTS or client not in state.starts:
            return task
        start = renumber(whole(state.starts[client]), task.model.spec.own)
        return replace(task, model=replace(task.model, tensors={**task.model.tensors, **start}))

    def aggregate(
        self, state: OwnStartState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> OwnStartState:
        """The wrapped method's aggregation; warm-ups are kept until round 1 is over."""
        collecting = state.allocation is None
        starts = {**state.starts, **{update.client: update.tensors for update in updates}} if collecting else {}
        return replace(state, inner=self.method.aggregate(state.inner, updates, absent), starts=starts)


@serialisable
@dataclass(frozen=True, kw_only=True)
class KeepOutState(WrapperState):
    """The wrapped state with the clients that are kept out.

    Attributes:
        newcomers: clients that joined after the start.
        kept_out: client -> its warm-up, for newcomers that are unlike every expert.
        refusals: one sentence for every client that was kept out.
    """

    newcomers: frozenset[ClientId] = frozenset()
    kept_out: Mapping[ClientId, Tensors] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """The refusals, followed by the notes of the wrapped state, which may place a client later."""
        return (*self.refusals, *self.inner.notes)


@dataclass(frozen=True)
class KeepOut(Wrapper):
    """Keeps out newcomers whose warm-up is unlike every expert; clients that were there at the start are always placed.

    Attributes:
        admitted: newcomers that are placed anyway, even if they were kept out before.
        everyone: whether all newcomers are placed; this is a parameter rather than a missing wrapper, so that a run can
            be resumed with the other value.
    """

    admitted: tuple[ClientId, ...] = ()
    everyone: bool = False

    STATE: ClassVar[type[WrapperState]] = KeepOutState

    def task(self, state: KeepOutState, client: ClientId) -> ClientTask | None:
        """The wrapped method's task; None for a client that is kept out."""
        return None if client in state.kept_out else self.method.task(state.inner, client)

    def aggregate(
        self, state: KeepOutState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> KeepOutState:
        """The wrapped method's aggregation, without the warm-ups of clients that are kept out."""
        admitted = {*state.clients} if self.everyone else {*self.admitted}
        kept_out = {client: tensors for client, tensors in state.kept_out.items() if client not in admitted}
        # Warm-ups of clients that were kept out before and are now admitted.
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
                        f"client {update.client!r} came late and is kept out: {placement.why_out}; to place it anyway, "
                        "add it to fedlease.admitted"
                    )
                    continue
            passed.append(update)
        after = self.method.aggregate(state.inner, passed, absent)
        return replace(state, inner=after, kept_out=kept_out, refusals=tuple(refusals))

    def model(self, state: KeepOutState, client: ClientId) -> ClientModel:
        """The wrapped method's model; a client that is kept out has its own warm-up."""
        if client in state.kept_out and not is_sketch(state.kept_out[client]):
            return ClientModel(state.adapter.spec, whole(state.kept_out[client]))
        return self.method.model(state.inner, client)

    def admit(self, state: KeepOutState, client: ClientId, num_examples: int) -> KeepOutState:
        """Admits the client to the wrapped method, and remembers it as a newcomer."""
        inner = self.method.admit(state.inner, client, num_examples)
        return replace(state, inner=inner, newcomers=state.newcomers | {client})
