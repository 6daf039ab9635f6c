"""FedLEASE: experts are allocated by clustering LoRA B matrices, and selected per layer and token by adaptive top-M.

Wang, Bian, Zhang, Xu: Adaptive LoRA Experts Allocation and Selection for Federated Fine-Tuning. NeurIPS 2025.
https://arxiv.org/abs/2509.15087
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from torch import Tensor

from fedlease.core.adapters import b_matrices, initial_router, renumber
from fedlease.core.aggregate import ClusterMeans, client_weights
from fedlease.core.allocate import joined
from fedlease.core.choices import Linkage, RouterStart, Weighting
from fedlease.core.codec import serialisable
from fedlease.core.placement import centroids
from fedlease.core.types import (
    Allocation,
    ClientId,
    ClientModel,
    ClientTask,
    ClientUpdate,
    Stage,
    TensorName,
    Tensors,
)
from fedlease.core.wording import listed
from fedlease.errors import RunFailedError
from fedlease.methods.base import CommonMethod, CommonState, by_client
from fedlease.methods.fedlease_groupings import ByClusters, Grouping
from fedlease.methods.warmup import WARMUP

__all__ = ["EXPERTS", "FedLease", "FedLeaseState"]

EXPERTS = "experts"


@serialisable
@dataclass(frozen=True, kw_only=True)
class FedLeaseState(CommonState):
    """State of a FedLEASE run.

    Attributes:
        seed: root seed, for routers and groupings.
        routers: the router of every cluster; {} for each if M = 1 or without routing.
    """

    seed: int
    routers: tuple[Tensors, ...] = ()


S = TypeVar("S", bound=FedLeaseState)
PAPER_GROUPING, PAPER_MEANS = ByClusters(), ClusterMeans()


@dataclass(frozen=True)
class FedLease(CommonMethod):
    """Parameters of FedLEASE; those before ``grouping`` are the paper's.

    Attributes:
        max_experts: M_max, at least 2.
        min_silhouette: M = 1 if no S(k) is above it; -1 always splits, as in the paper.
        linkage: distance between two clusters.
        weights: weights of clients in the mean of a cluster.
        grouping: rule that decides which clients train which expert.
        means: mean that turns a cluster's uploads into its expert and router.
        router_start: initial values of routers, which the paper leaves open; None: no routing, every client uses only
            its own expert.
        columns: number of leading columns of every B by which late clients are placed; None: all.
        least: fewest clients of a cluster; smaller clusters join the nearest one.
    """

    max_experts: int = 8
    min_silhouette: float = 0.05
    linkage: Linkage = "average"
    weights: Weighting = "num_examples"
    grouping: Grouping = PAPER_GROUPING
    means: ClusterMeans = PAPER_MEANS
    router_start: RouterStart | None = "random"
    columns: int | None = None
    least: int = 1

    averaged: ClassVar[tuple[str, ...]] = ("experts", "routers")
    state: ClassVar[type[FedLeaseState]] = FedLeaseState

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> FedLeaseState:
        """All clients start from the same A, and B = 0.

        Raises:
            ConfigError: the grouping does not fit the clients.
        """
        planned = self.grouping.planned(clients)
        return self.state(round=0, adapter=adapter, clients=dict(clients), planned=planned, seed=seed)

    def task(self, state: FedLeaseState, client: ClientId) -> ClientTask | None:
        """A warm-up for a client without an expert; else a task that trains its expert and its cluster's router."""
        if state.round > self.last_round:
            return None
        if client not in state.assignment:
            return state.warmup.task(client, state.adapter, self.budget, state.round)
        model = self.model(state, client)
        trained = model.names("AB", model.spec.own) | model.names("G")
        return ClientTask(EXPERTS, state.round, model, (Stage(trained, self.budget.local_epochs),), upload=trained)

    def aggregate(
        self, state: FedLeaseState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> FedLeaseState:
        """Phase 1 collects warm-ups and allocates experts after the last one; phase 2 averages within each cluster."""
        updates = by_client(updates)
        if state.allocation is None:
            state = replace(state, warmup=state.warmup.collect(updates, absent))
            return state if state.warmup.pending(state.clients) else self._allocate(state)
        state = self.placed(state, [update for update in updates if update.phase == WARMUP])
        means = self.means_of([update for update in updates if update.phase != WARMUP], state.assignment)
        # Tensors that nobody uploaded stay: the expert of a cluster that did not answer, and private routers.
        new = [_split(means.get(expert, {})) for expert in range(len(state.experts))]
        return replace(
            state,
            round=state.round + 1,
            experts=tuple({**kept, **expert} for kept, (expert, _) in zip(state.experts, new, strict=True)),
            routers=tuple({**kept, **router} for kept, (_, router) in zip(state.routers, new, strict=True)),
        )

    def model(self, state: FedLeaseState, client: ClientId) -> ClientModel:
        """All M experts and the router of the client's cluster; before the allocation, the client's warm-up."""
        spec = state.adapter.spec
        if client not in state.assignment:
            return ClientModel(spec, state.warmup.results.get(client, state.adapter.tensors))
        own = state.assignment[client]
        if not state.routers[own]:
            return ClientModel(spec, state.experts[own])
        tensors = dict(state.routers[own])
        for expert, values in enumerate(state.experts):
            tensors.update(renumber(values, expert))
        return ClientModel(replace(spec, num_experts=len(state.experts), own=own, mixer="top_m"), tensors)

    def group(self, state: FedLeaseState, client: ClientId) -> int:
        """The client's expert; before the allocation, a group of its own."""
        return state.assignment[client] if client in state.assignment else -1 - sorted(state.clients).index(client)

    def grouped(
        self, state: FedLeaseState, uploads: Mapping[ClientId, Tensors], warmups: Mapping[ClientId, Tensors]
    ) -> FedLeaseState:
        """Groups the clients, and gives every cluster the mean of its uploads as expert and an initial router.

        Args:
            state: before the grouping.
            uploads: client -> A and B, numbered as expert 0.
            warmups: client -> module -> B of its warm-up, for the placement of late clients.
        """
        state = self.allocated(state, uploads, warmups)
        weights = client_weights(state.clients, self.weights)
        return self.with_experts(state, self.means(uploads, weights, state.assignment))

    def allocated(
        self, state: FedLeaseState, uploads: Mapping[ClientId, Tensors], warmups: Mapping[ClientId, Tensors]
    ) -> FedLeaseState:
        """The state with clusters and their centroids, but without experts; arguments as for :meth:`grouped`."""
        rule = {"max_experts": self.max_experts, "min_silhouette": self.min_silhouette, "linkage": self.linkage}
        allocation = _warned(joined(self.grouping(uploads, state.seed, **rule), self.least), self.means.needs)
        assignment = dict(allocation.assignment)
        known = centroids(warmups, assignment, self.columns)
        return replace(state, allocation=allocation, centroids=known, assignment=assignment)

    def with_experts(self, state: FedLeaseState, means: Mapping[int, Tensors]) -> FedLeaseState:
        """The state with these means as experts, and initial routers."""
        count = len(means)
        start = self.router_start if count > 1 else None
        router = {} if start is None else initial_router(state.adapter, count, state.seed, start)
        return replace(state, experts=tuple(means[expert] for expert in range(count)), routers=(router,) * count)

    def means_of(
        self, updates: Sequence[ClientUpdate], assignment: Mapping[ClientId, int]
    ) -> dict[int, dict[str, Tensor]]:
        """Cluster -> the mean of its clients' uploads, numbered as expert 0, for clusters with an upload."""
        uploads = {update.client: renumber(update.tensors, 0) for update in updates}
        weights = client_weights({update.client: update.num_examples for update in updates}, self.weights)
        return self.means(uploads, weights, assignment)

    def placed(self, state: S, late: Sequence[ClientUpdate]) -> S:
        """Places late clients with the experts whose warm-ups are nearest to theirs."""
        for update in late:
            assert state.centroids is not None  # set together with the allocation
            placement = state.centroids.place(update.tensors)
            note = f"client {update.client!r} came late and was placed with {placement}"
            assignment = {**state.assignment, update.client: placement.expert}
            state = replace(state, assignment=assignment, notes=(*state.notes, note))
        return state

    def _allocate(self, state: FedLeaseState) -> FedLeaseState:
        warmups = state.warmup.results
        if not warmups:
            raise RunFailedError("no client's warm-up could be used, so experts cannot be allocated")
        b = {client: b_matrices(tensors) for client, tensors in warmups.items()}
        return self.grouped(replace(state, round=1, warmup=state.warmup.used()), warmups, b)


def _warned(allocation: Allocation, needs: int) -> Allocation:
    """The allocation, with a warning about clusters that are too small for a robust mean to outvote a client."""
    groups = [allocation.members(expert) for expert in range(allocation.num_experts)]
    if not (small := [members for members in groups if 1 < len(members) < needs]):
        return allocation
    named = listed(["{" + ", ".join(members) + "}" for members in small], 3)
    warning = f"fedlease.average outvotes a false update only in clusters of at least {needs} clients, not in {named}"
    return replace(allocation, warnings=(*allocation.warnings, warning))


def _split(tensors: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Splits tensors into the A and B of an expert and the router of its cluster."""
    routers = {name: tensor for name, tensor in tensors.items() if TensorName.parse(name).kind == "G"}
    return {name: tensor for name, tensor in tensors.items() if name not in routers}, routers
