"""FedLEASE: experts allocated by clustering LoRA B matrices, selected per layer and token by adaptive top-M.

Wang, Bian, Zhang, Xu: Adaptive LoRA Experts Allocation and Selection for Federated Fine-Tuning. NeurIPS 2025.
https://arxiv.org/abs/2509.15087
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

from torch import Tensor

from fedlease.core.adapters import b_matrices, initial_router, renumber
from fedlease.core.aggregate import ClusterMeans, client_weights
from fedlease.core.allocate import joined
from fedlease.core.choices import Linkage, RouterStart, Signal, Weighting
from fedlease.core.codec import serialisable
from fedlease.core.placement import centroids
from fedlease.core.types import (
    Allocation,
    Budget,
    ClientId,
    ClientModel,
    ClientTask,
    ClientUpdate,
    Sketch,
    Stage,
    TensorName,
    Tensors,
)
from fedlease.core.wording import expert_name, listed
from fedlease.errors import RunFailedError
from fedlease.methods.base import CommonState, by_client
from fedlease.methods.fedlease_groupings import ByClusters, Grouping
from fedlease.methods.warmup import WARMUP, WARMUP_TRIES

__all__ = ["EXPERTS", "START", "FedLease", "FedLeaseState"]

EXPERTS = "experts"
START = "start"
"""The phase between warm-up and rounds in which clients whose warm-ups were sketched give them to their clusters."""


@serialisable
@dataclass(frozen=True, kw_only=True)
class FedLeaseState(CommonState):
    """State of a FedLEASE run.

    Attributes:
        seed: root seed, for routers and groupings.
        routers: one router per cluster; empty dicts when M = 1 or nothing is routed.
        begun: cluster -> the mean of its warm-ups, of sketched ones, until all clusters have theirs.
        starts: how often they were asked for.
    """

    seed: int
    routers: tuple[Tensors, ...] = ()
    begun: Mapping[int, Tensors] = field(default_factory=dict)
    starts: int = 0


class Means(Protocol):
    """Uploads, weights and assignment -> one mean per cluster, see :class:`fedlease.core.aggregate.ClusterMeans`."""

    @property
    def needs(self) -> int:
        """Clients of a cluster with which its mean outvotes one of them; 0 for a mean that outvotes nobody."""

    def __call__(
        self, uploads: Mapping[ClientId, Tensors], weights: Mapping[ClientId, float], assignment: Mapping[ClientId, int]
    ) -> dict[int, dict[str, Tensor]]:
        """Cluster -> its mean."""


PAPER_GROUPING, PAPER_MEANS = ByClusters(), ClusterMeans()


@dataclass(frozen=True)
class FedLease:
    """Parameters of FedLEASE; the first six are the paper's.

    Attributes:
        budget: E, R and local epochs.
        max_experts: M_max, at least 2.
        min_silhouette: M = 1 when no S(k) is above it; -1 always splits, as in the paper.
        linkage: how far two clusters are apart.
        weights: how clients are weighted within a cluster.
        grouping: who trains which expert.
        means: what clusters uploaded -> their experts and routers.
        router_start: how routers begin, which the paper leaves open; None routes nothing: every client uses its own
            expert alone.
        columns: of every B, which late clients are placed by; None: all.
        least: clients of a cluster; smaller ones are joined with the nearest.
        sketch: numbers, over all modules, that a client sends of its warm-up in the place of A and B; None: these. The
            first experts are then asked for once the clusters are known.
        signal: what is sketched.
    """

    budget: Budget
    max_experts: int = 8
    min_silhouette: float = 0.05
    linkage: Linkage = "average"
    weights: Weighting = "num_examples"
    grouping: Grouping = PAPER_GROUPING
    means: Means = PAPER_MEANS
    router_start: RouterStart | None = "random"
    columns: int | None = None
    least: int = 1
    sketch: int | None = None
    signal: Signal = "B"

    averaged: ClassVar[tuple[str, ...]] = ("experts", "routers")

    @property
    def last_round(self) -> int:
        """R."""
        return self.budget.rounds

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> FedLeaseState:
        """Everyone gets the same A, and B = 0.

        Raises:
            ConfigError: the grouping and the clients do not fit.
        """
        planned = self.grouping.planned(clients)
        return FedLeaseState(round=0, adapter=adapter, clients=dict(clients), planned=planned, seed=seed)

    def task(self, state: FedLeaseState, client: ClientId) -> ClientTask | None:
        """A warm-up for a client without an expert; else its own expert and its cluster's router."""
        if state.round > self.last_round:
            return None
        if client not in state.assignment:
            task = state.warmup.task(client, state.adapter, self.budget, state.round)
            return task and replace(task, sketch=self._sketch(state))
        model = self.model(state, client)
        if not state.experts:
            known = state.assignment[client] in state.begun
            return None if known else ClientTask(START, state.round, model, (), upload=model.names("AB"))
        trained = model.names("AB", model.spec.own) | model.names("G")
        return ClientTask(EXPERTS, state.round, model, (Stage(trained, self.budget.local_epochs),), upload=trained)

    def aggregate(
        self, state: FedLeaseState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> FedLeaseState:
        """Phase 1 collects, and allocates once everyone has answered; phase 2 takes a mean within each cluster.

        After sketches, the first experts come in between.
        """
        updates = by_client(updates)
        if state.allocation is None:
            state = replace(state, warmup=state.warmup.collect(updates, absent))
            return state if state.warmup.pending(state.clients) else self._allocate(state)
        state = _placed(state, [update for update in updates if update.phase == WARMUP])
        means = self._means([update for update in updates if update.phase != WARMUP], state.assignment)
        if not state.experts:
            return self._begin(state, {**state.begun, **means})
        # What nobody uploaded stays: the expert of a cluster that did not answer, a router that is private.
        new = [_split(means.get(expert, {})) for expert in range(len(state.experts))]
        return replace(
            state,
            round=state.round + 1,
            experts=tuple({**kept, **expert} for kept, (expert, _) in zip(state.experts, new, strict=True)),
            routers=tuple({**kept, **router} for kept, (_, router) in zip(state.routers, new, strict=True)),
        )

    def model(self, state: FedLeaseState, client: ClientId) -> ClientModel:
        """All M experts with the client's own marked, and its cluster's router; before that, its warm-up."""
        spec = state.adapter.spec
        if self.sketch is not None and (client not in state.assignment or not state.experts):
            return replace(state.adapter, warmed=True)
        if client not in state.assignment:
            return ClientModel(spec, state.warmup.results.get(client, state.adapter.tensors))
        own = state.assignment[client]
        if not state.routers[own]:
            return ClientModel(spec, state.experts[own])
        tensors = dict(state.routers[own])
        for expert, values in enumerate(state.experts):
            tensors.update(renumber(values, expert))
        return ClientModel(replace(spec, num_experts=len(state.experts), own=own, mixer="top_m"), tensors)

    def admit(self, state: FedLeaseState, client: ClientId, num_examples: int) -> FedLeaseState:
        """A late client warms up when it is next asked, and is placed by that warm-up."""
        return replace(state, clients={**state.clients, client: num_examples})

    def group(self, state: FedLeaseState, client: ClientId) -> int:
        """Its expert; before the allocation every client stands alone."""
        return state.assignment[client] if client in state.assignment else -1 - sorted(state.clients).index(client)

    def grouped(
        self,
        state: FedLeaseState,
        uploads: Mapping[ClientId, Tensors],
        warmups: Mapping[ClientId, Mapping[str, Tensor]],
    ) -> FedLeaseState:
        """Groups the clients; every cluster has the mean of its uploads as expert, and a router that begins. Of
        sketched warm-ups the experts are still to come.

        Args:
            state: before.
            uploads: client -> A and B, numbered as expert 0.
            warmups: client -> module -> B of its warm-up, by which late clients are placed.
        """
        rule = {"max_experts": self.max_experts, "min_silhouette": self.min_silhouette, "linkage": self.linkage}
        allocation = _warned(joined(self.grouping(uploads, state.seed, **rule), self.least), self.means.needs)
        assignment = dict(allocation.assignment)
        known = centroids(warmups, assignment, self.columns)
        state = replace(state, allocation=allocation, centroids=known, assignment=assignment)
        if self.sketch is not None:
            return state
        return self._with_experts(state, self.means(uploads, client_weights(state.clients, self.weights), assignment))

    def _allocate(self, state: FedLeaseState) -> FedLeaseState:
        warmups = state.warmup.results
        if not warmups:
            raise RunFailedError("no client's warm-up could be used: there is nothing to allocate experts from")
        b = {client: b_matrices(tensors) for client, tensors in warmups.items()}
        first = 1 if self.sketch is None else 0
        return self.grouped(replace(state, round=first, warmup=state.warmup.used()), warmups, b)

    def _begin(self, state: FedLeaseState, means: Mapping[int, Tensors]) -> FedLeaseState:
        """Round 1 with these experts; a cluster whose warm-ups have not come is asked once more."""
        allocation = state.allocation
        assert allocation is not None  # warm-ups are asked for by cluster
        state = replace(state, begun=means, starts=state.starts + 1)
        lacking = [expert for expert in range(allocation.num_experts) if expert not in means]
        if lacking and state.starts < WARMUP_TRIES:
            return state
        common = {name: state.adapter.tensors[name] for name in sorted(state.adapter.names("AB"))}
        notes = [
            f"{expert_name(expert)} begins from the common adapter: the warm-ups of its clients could not be summed"
            for expert in lacking
        ]
        state = replace(state, round=1, begun={}, notes=(*state.notes, *notes))
        return self._with_experts(state, {**dict.fromkeys(lacking, common), **means})

    def _with_experts(self, state: FedLeaseState, means: Mapping[int, Tensors]) -> FedLeaseState:
        count = len(means)
        start = self.router_start if count > 1 else None
        router = {} if start is None else initial_router(state.adapter, count, state.seed, start)
        return replace(state, experts=tuple(means[expert] for expert in range(count)), routers=(router,) * count)

    def _means(
        self, updates: Sequence[ClientUpdate], assignment: Mapping[ClientId, int]
    ) -> dict[int, dict[str, Tensor]]:
        uploads = {update.client: renumber(update.tensors, 0) for update in updates}
        weights = client_weights({update.client: update.num_examples for update in updates}, self.weights)
        return self.means(uploads, weights, assignment)

    def _sketch(self, state: FedLeaseState) -> Sketch | None:
        if self.sketch is None:
            return None
        return Sketch(math.ceil(self.sketch / len(state.adapter.spec.target_modules)), self.signal, state.seed)


def _placed(state: FedLeaseState, late: Sequence[ClientUpdate]) -> FedLeaseState:
    """Late clients go to the experts whose warm-ups theirs are nearest to."""
    for update in late:
        assert state.centroids is not None  # set together with the allocation
        placement = state.centroids.place(update.tensors)
        note = f"client {update.client!r} came late and was placed with {placement}"
        assignment = {**state.assignment, update.client: placement.expert}
        state = replace(state, assignment=assignment, notes=(*state.notes, note))
    return state


def _warned(allocation: Allocation, needs: int) -> Allocation:
    """The allocation, with a warning about clusters in which a robust mean outvotes nobody."""
    groups = [allocation.members(expert) for expert in range(allocation.num_experts)]
    if not (small := [members for members in groups if 1 < len(members) < needs]):
        return allocation
    named = listed(["{" + ", ".join(members) + "}" for members in small], 3)
    warning = f"the mean outvotes one client only in clusters of {needs} or more (fedlease.average), not in {named}"
    return replace(allocation, warnings=(*allocation.warnings, warning))


def _split(tensors: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The A and B of an expert, and its cluster's router."""
    routers = {name: tensor for name, tensor in tensors.items() if TensorName.parse(name).kind == "G"}
    return {name: tensor for name, tensor in tensors.items() if name not in routers}, routers
