"""FedLEASE: experts allocated by clustering LoRA B matrices, selected per layer and token by adaptive top-M.

Wang, Bian, Zhang, Xu: Adaptive LoRA Experts Allocation and Selection for Federated Fine-Tuning. NeurIPS 2025.
https://arxiv.org/abs/2509.15087
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from fedlease.core.aggregate import Weighting, mean_update
from fedlease.core.allocate import (
    Centres,
    Clustering,
    Linkage,
    allocate,
    assign,
    centres,
    distances,
    place,
    product_distances,
)
from fedlease.core.codec import serialisable
from fedlease.core.experts import a_matrices, b_matrices, initial_router, renumber, seed_experts
from fedlease.core.seeds import generator
from fedlease.core.types import (
    Allocation,
    Budget,
    ClientId,
    ClientModel,
    ClientTask,
    ClientUpdate,
    Stage,
    TensorName,
    Tensors,
)
from fedlease.errors import ConfigError, RunFailedError
from fedlease.methods.base import WARMUP, ab_names, by_client, waits

__all__ = ["FedLease", "FedLeaseState"]

EXPERTS = "experts"


@serialisable
@dataclass(frozen=True)
class FedLeaseState:
    """Where a FedLEASE run stands.

    Attributes:
        round: 0 until the experts are allocated.
        seed: root seed, for the router.
        adapter: what every client starts from, late ones too.
        clients: client -> n_i.
        warmups: client -> its warm-up A and B; emptied by the allocation.
        tries: client -> warm-ups that were refused.
        allocation: None until every client has been asked.
        centres: what places late clients; None until the allocation.
        assignment: client -> expert, the allocation's and those placed since.
        experts: one state per expert, numbered as expert 0.
        routers: one router per cluster; empty dicts when M = 1 or nothing is routed.
        starts: client -> its warm-up, where its first round goes on from that.
        warnings: plain sentences about late placements, and about a ``top_k`` that the allocation leaves no room for.
    """

    round: int
    seed: int
    adapter: ClientModel
    clients: Mapping[ClientId, int]
    warmups: Mapping[ClientId, Tensors] = field(default_factory=dict)
    tries: Mapping[ClientId, int] = field(default_factory=dict)
    allocation: Allocation | None = None
    centres: Centres | None = None
    assignment: Mapping[ClientId, int] = field(default_factory=dict)
    experts: tuple[Tensors, ...] = ()
    routers: tuple[Tensors, ...] = ()
    starts: Mapping[ClientId, Tensors] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class FedLease:
    """Parameters of FedLEASE.

    Attributes:
        budget: E, R and local epochs.
        max_experts: M_max, at least 2.
        min_silhouette: M = 1 when no S(k) is above it; -1 always splits, as in the paper.
        linkage: of the clustering.
        weights: how clients are weighted within a cluster.
        clustering: ``hierarchical`` (paper) or ``spectral``.
        signal: what of the warm-ups is compared: ``B`` (paper), ``A``, or the products ``BA``.
        grouping: ``clusters`` (paper); ``clients``: one expert each; ``random``: ``num_experts`` groups of equal size,
            drawn from the seed; ``given``: ``assignment``.
        num_experts: M, whatever the silhouettes say; None lets them choose. 1 is FedIT after a warm-up.
        assignment: client -> group, for ``given``.
        expert_start: ``cluster``: the mean over a cluster (paper); ``client``: in its first round every client goes on
            from its own warm-up, and the first mean is taken after it.
        routing: ``top-m`` (paper), or ``own``: every client with its own expert alone, grouping without mixing.
        router: averaged in the ``cluster`` (paper), or kept by the ``client``.
        renormalise: whether kept slot weights sum to 1; False leaves them as the softmax over all slots gave them.
        top_k: slots kept; None keeps M, the adaptive selection. With 1 only the largest slot counts. Where the
            allocation leaves fewer than ``top_k`` slots, 2M - 1, all are kept and a warning says so.
    """

    budget: Budget
    max_experts: int = 8
    min_silhouette: float = 0.05
    linkage: Linkage = "average"
    weights: Weighting = "num_examples"
    clustering: Clustering = "hierarchical"
    signal: Literal["B", "A", "BA"] = "B"
    grouping: Literal["clusters", "clients", "random", "given"] = "clusters"
    num_experts: int | None = None
    assignment: Mapping[ClientId, int] | None = None
    expert_start: Literal["cluster", "client"] = "cluster"
    routing: Literal["top-m", "own"] = "top-m"
    router: Literal["cluster", "client"] = "cluster"
    renormalise: bool = True
    top_k: int | None = None

    @property
    def last_round(self) -> int:
        """R."""
        return self.budget.rounds

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> FedLeaseState:
        """Everyone gets the same A, and B = 0.

        Raises:
            ConfigError: the grouping and the clients do not fit.
        """
        if self.grouping == "random" and self.num_experts is None:
            raise ConfigError("fedlease.num_experts: is required when fedlease.grouping is 'random'")
        if self.num_experts is not None and not 1 <= self.num_experts <= len(clients):
            raise ConfigError(
                f"fedlease.num_experts: must be in 1 .. {len(clients)}, the number of clients, "
                f"received {self.num_experts}"
            )
        missing = sorted(clients.keys() - (self.assignment or {}).keys()) if self.grouping == "given" else []
        if missing:
            raise ConfigError(f"fedlease.assignment: names no group for clients {missing}")
        return FedLeaseState(round=0, seed=seed, adapter=adapter, clients=dict(clients))

    def task(self, state: FedLeaseState, client: ClientId) -> ClientTask | None:
        """Warm-up for a client without expert; else its own expert and its cluster's router."""
        if state.round > self.last_round:
            return None
        if client not in state.assignment:
            if state.allocation is None and not waits(client, state.warmups, state.tries):
                return None
            names = ab_names(state.adapter)
            stage = Stage(names, self.budget.warmup_epochs)
            return ClientTask(WARMUP, state.round, state.adapter, (stage,), upload=names)
        model = self.model(state, client)
        own = ab_names(model, model.spec.own)
        routers = frozenset(name for name in model.tensors if TensorName.parse(name).kind == "G")
        if client in state.starts:
            start = renumber(state.starts[client], model.spec.own)
            model = replace(model, tensors={**model.tensors, **start})
        stage = Stage(own | routers, self.budget.local_epochs)
        upload = own | routers if self.router == "cluster" else own
        return ClientTask(EXPERTS, state.round, model, (stage,), upload=upload)

    def aggregate(
        self, state: FedLeaseState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> FedLeaseState:
        """Warm-up: collects, and allocates once everyone has answered. Rounds: means within each cluster."""
        updates = by_client(updates)
        if state.allocation is None:
            warmups = {**state.warmups, **{update.client: update.tensors for update in updates}}
            tries = {**state.tries, **{client: state.tries.get(client, 0) + 1 for client in absent}}
            state = replace(state, warmups=warmups, tries=tries)
            if any(waits(client, warmups, tries) for client in state.clients):
                return state
            return self._allocate(state)
        state = self._place(state, [update for update in updates if update.phase == WARMUP])
        experts, routers = list(state.experts), list(state.routers)
        for expert in range(len(experts)):
            members = [u for u in updates if u.phase == EXPERTS and state.assignment[u.client] == expert]
            if not members:
                continue  # a cluster without updates keeps its expert
            mean = mean_update(members, weighting=self.weights)
            # A router that clients keep stays at its start here.
            routers[expert] = {name: mean.get(name, tensor) for name, tensor in routers[expert].items()}
            experts[expert] = renumber({name: mean[name] for name in sorted(mean.keys() - routers[expert].keys())}, 0)
        trained = {update.client for update in updates if update.phase == EXPERTS}
        starts = {client: tensors for client, tensors in state.starts.items() if client not in trained}
        return replace(state, round=state.round + 1, experts=tuple(experts), routers=tuple(routers), starts=starts)

    def model(self, state: FedLeaseState, client: ClientId) -> ClientModel:
        """All M experts with the client's own marked, and its cluster's router; before that, its warm-up."""
        if client not in state.assignment:
            tensors = state.warmups.get(client, state.adapter.tensors)
            return ClientModel(state.adapter.spec, tensors)
        own = state.assignment[client]
        if len(state.experts) == 1 or self.routing == "own":
            return ClientModel(state.adapter.spec, state.experts[own])
        tensors = dict(state.routers[own])
        for expert, values in enumerate(state.experts):
            tensors.update(renumber(values, expert))
        spec = replace(
            state.adapter.spec,
            num_experts=len(state.experts),
            own=own,
            mixer="top_m",
            top_k=None if self.top_k is None else min(self.top_k, 2 * len(state.experts) - 1),
            renormalise=self.renormalise,
        )
        return ClientModel(spec, tensors)

    def admit(self, state: FedLeaseState, client: ClientId, num_examples: int) -> FedLeaseState:
        """A late client warms up when it is next asked, and is placed by that warm-up."""
        return replace(state, clients={**state.clients, client: num_examples})

    def group(self, state: FedLeaseState, client: ClientId) -> int:
        """Its expert; before the allocation every client stands alone."""
        if client in state.assignment:
            return state.assignment[client]
        return -1 - sorted(state.clients).index(client)

    def _allocate(self, state: FedLeaseState) -> FedLeaseState:
        if not state.warmups:
            raise RunFailedError("no client's warm-up could be used: there is nothing to allocate experts from")
        b = {client: b_matrices(tensors) for client, tensors in state.warmups.items()}
        allocation = self._group(state, b)
        router: dict[str, Tensor] = {}
        warnings = state.warnings
        if allocation.num_experts > 1 and self.routing == "top-m":
            router = initial_router(state.adapter, allocation.num_experts, state.seed)
            slots = 2 * allocation.num_experts - 1
            if self.top_k is not None and self.top_k > slots:
                warnings += (
                    f"fedlease.top_k: {self.top_k} slots were to be kept, but {allocation.num_experts} experts make "
                    f"{slots}: all are kept",
                )
        return replace(
            state,
            round=1,
            warmups={},
            starts=dict(state.warmups) if self.expert_start == "client" else {},
            allocation=allocation,
            centres=centres(b, allocation),
            assignment=dict(allocation.assignment),
            experts=seed_experts(allocation, state.warmups, state.clients, weighting=self.weights),
            routers=(router,) * allocation.num_experts,
            warnings=warnings,
        )

    def _group(self, state: FedLeaseState, b: Mapping[ClientId, Mapping[str, Tensor]]) -> Allocation:
        clients = sorted(b)
        if self.grouping == "clients":
            return assign(b, {client: i for i, client in enumerate(clients)})
        if self.grouping == "given":
            return assign(b, dict(self.assignment or {}))
        if self.grouping == "random":
            order = torch.randperm(len(clients), generator=generator(state.seed, "random grouping")).tolist()
            count = min(self.num_experts or 1, len(clients))
            return assign(b, {clients[i]: place_ % count for place_, i in enumerate(order)})
        d = None
        if self.signal != "B":
            a = {client: a_matrices(tensors) for client, tensors in state.warmups.items()}
            d = (distances(a) if self.signal == "A" else product_distances(b, a))[1]
        return allocate(
            b,
            max_experts=self.max_experts,
            min_silhouette=self.min_silhouette,
            linkage=self.linkage,
            clustering=self.clustering,
            num_experts=None if self.num_experts is None else min(self.num_experts, len(clients)),
            d=d,
        )

    def _place(self, state: FedLeaseState, late: Sequence[ClientUpdate]) -> FedLeaseState:
        assignment, warnings = dict(state.assignment), list(state.warnings)
        for update in late:
            assert state.centres is not None  # set together with the allocation
            placement = place(b_matrices(update.tensors), state.centres)
            assignment[update.client] = placement.expert
            warnings.append(
                f"client {update.client!r} came late and was placed with expert {placement.expert} "
                f"at distance {placement.distances[placement.expert]:.3f}, margin {placement.margin:.3f}"
                + (", farther than any of its members" if placement.unlike else "")
            )
        return replace(state, assignment=assignment, warnings=tuple(warnings))
