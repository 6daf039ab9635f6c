"""FedLEASE: experts allocated by clustering LoRA B matrices, selected per layer and token by adaptive top-M.

Wang, Bian, Zhang, Xu: Adaptive LoRA Experts Allocation and Selection for Federated Fine-Tuning. NeurIPS 2025.
https://arxiv.org/abs/2509.15087
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from fedlease.core.adapters import RouterStart, b_matrices, renumber
from fedlease.core.aggregate import Weighting
from fedlease.core.allocate import assign
from fedlease.core.clustering import Clustering, Linkage
from fedlease.core.placement import centroids
from fedlease.core.types import (
    Budget,
    ClientId,
    ClientModel,
    ClientTask,
    ClientUpdate,
    Stage,
    TensorName,
    Tensors,
)
from fedlease.core.wording import counted
from fedlease.errors import ConfigError, RunFailedError
from fedlease.methods.base import by_client
from fedlease.methods.fedlease_experts import Average, Shrink, expert_means, first_routers, router_means
from fedlease.methods.fedlease_grouping import Grouping, Signal, check_grouping, group_clients, parted, place_late
from fedlease.methods.fedlease_state import FedLeaseState
from fedlease.methods.warmup import WARMUP, warmup_task

__all__ = ["FedLease", "FedLeaseState"]

EXPERTS = "experts"


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
        expert_start: ``cluster``: the mean over a cluster (paper); ``client``: in round 1 every client goes on from its
            own warm-up, and the first mean is taken after it.
        routing: ``top-m`` (paper), or ``own``: every client with its own expert alone, grouping without mixing.
        router: averaged in the ``cluster`` (paper), or kept by the ``client``.
        renormalise: whether kept slot weights sum to 1; False leaves them as the softmax over all slots gave them.
        top_k: slots kept; None keeps M, the adaptive selection. With 1 only the largest slot counts. Where the
            allocation leaves fewer than ``top_k`` slots, 2M - 1, all are kept and a warning says so.
        average: a cluster's mean is taken of A and of B (``factors``, paper), or of their ``product``.
        shrink: w in [0, 1]: every expert is (1 - w) x its cluster's mean + w x the mean of all that was uploaded with
            it, the first experts too. 0 is the paper's mean, 1 one adapter for all; ``auto``: see
            :func:`fedlease.methods.fedlease_experts.shrinkage`.
        reallocate: after every so many rounds, but the last, clients are clustered again, by what they uploaded last.
            None allocates once (paper).
        router_start: ``random`` (as released), or ``own``: nearly all weight on the own expert, see
            :func:`fedlease.core.adapters.initial_router`.
        unlike: ``keep_out``: a newcomer whose warm-up is farther from every expert than the expert's own clients are
            waits outside; ``place``: it goes to the nearest, as do clients that were there at the start.
        admitted: late clients that are placed however unlike they are, those kept out so far too.
    """

    budget: Budget
    max_experts: int = 8
    min_silhouette: float = 0.05
    linkage: Linkage = "average"
    weights: Weighting = "num_examples"
    clustering: Clustering = "hierarchical"
    signal: Signal = "B"
    grouping: Grouping = "clusters"
    num_experts: int | None = None
    assignment: Mapping[ClientId, int] | None = None
    expert_start: Literal["cluster", "client"] = "cluster"
    routing: Literal["top-m", "own"] = "top-m"
    router: Literal["cluster", "client"] = "cluster"
    renormalise: bool = True
    top_k: int | None = None
    average: Average = "factors"
    shrink: Shrink = 0.0
    reallocate: int | None = None
    router_start: RouterStart = "random"
    unlike: Literal["keep_out", "place"] = "keep_out"
    admitted: tuple[ClientId, ...] = ()

    @property
    def last_round(self) -> int:
        """R."""
        return self.budget.rounds

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> FedLeaseState:
        """Everyone gets the same A, and B = 0.

        Raises:
            ConfigError: the grouping and the clients do not fit, or a parameter is out of range.
        """
        check_grouping(self, clients)
        if self.shrink != "auto" and not 0 <= self.shrink <= 1:
            raise ConfigError(f"fedlease.shrink: must be 'auto' or in [0, 1], received {self.shrink!r}")
        return FedLeaseState(round=0, seed=seed, adapter=adapter, clients=dict(clients))

    def task(self, state: FedLeaseState, client: ClientId) -> ClientTask | None:
        """Warm-up for a client without expert; else its own expert and its cluster's router."""
        if state.round > self.last_round or client in state.kept_out:
            return None
        if client not in state.assignment:
            if state.allocation is None and not state.warmup.pending([client]):
                return None
            return warmup_task(state.adapter, self.budget, state.round)
        model = self.model(state, client)
        own, routers = model.names("AB", model.spec.own), model.names("G")
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
            state = replace(state, warmup=state.warmup.collect(updates, absent))
            return state if state.warmup.pending(state.clients) else self._allocate(state)
        state = self._place(state, {update.client: update.tensors for update in updates if update.phase == WARMUP})
        trained = [update for update in updates if update.phase == EXPERTS]
        uploads = {
            u.client: renumber({n: t for n, t in u.tensors.items() if TensorName.parse(n).kind in "AB"}, 0)
            for u in trained
        }
        means = self._means(uploads, {u.client: u.num_examples for u in trained}, state.assignment)
        after = replace(
            state,
            round=state.round + 1,
            # A cluster without updates keeps its expert.
            experts=tuple(means.get(expert, kept) for expert, kept in enumerate(state.experts)),
            routers=router_means(trained, state.routers, state.assignment, self.weights),
            # Later the experts have moved on: a client that was not asked in round 1 goes on from its expert.
            starts={},
        )
        if self.reallocate is None:
            return after
        after = replace(after, uploads={**state.uploads, **uploads})
        due = state.round % self.reallocate == 0 and state.round < self.last_round
        return self._reallocate(after) if due and uploads else after

    def model(self, state: FedLeaseState, client: ClientId) -> ClientModel:
        """All M experts with the client's own marked, and its cluster's router; before that, its warm-up."""
        if client not in state.assignment:
            tensors = {**state.warmup.results, **state.kept_out}.get(client, state.adapter.tensors)
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
        newcomers = state.newcomers | {client}
        return replace(state, clients={**state.clients, client: num_examples}, newcomers=newcomers)

    def group(self, state: FedLeaseState, client: ClientId) -> int:
        """Its expert; before the allocation every client stands alone."""
        if client in state.assignment:
            return state.assignment[client]
        return -1 - sorted(state.clients).index(client)

    def _allocate(self, state: FedLeaseState) -> FedLeaseState:
        warmups = state.warmup.results
        if not warmups:
            raise RunFailedError("no client's warm-up could be used: there is nothing to allocate experts from")
        b = {client: b_matrices(tensors) for client, tensors in warmups.items()}
        allocation = group_clients(self, warmups, state.seed)
        means = self._means(warmups, state.clients, allocation.assignment)
        state = replace(
            state,
            round=1,
            warmup=state.warmup.used(),
            starts=dict(warmups) if self.expert_start == "client" else {},
            uploads=dict(warmups) if self.reallocate else {},
            origins=b if self.reallocate else {},
            allocation=allocation,
            # Late clients are placed by B, whatever the groups were made of.
            centroids=centroids(b, allocation if self.signal == "B" else assign(b, allocation.assignment)),
            assignment=dict(allocation.assignment),
            experts=tuple(means[expert] for expert in range(allocation.num_experts)),
        )
        return self._with_new_routers(state)

    def _reallocate(self, state: FedLeaseState) -> FedLeaseState:
        """New groups of what was uploaded last; as it is where the groups stay the same, or cannot be told apart."""
        try:
            allocation = group_clients(self, state.uploads, state.seed)
        except RunFailedError as error:
            said = f"after round {state.round - 1} the groups stay as they were: {error}"
            return replace(state, notes=(*state.notes, said))
        moved, before, now = parted(state.assignment, allocation.assignment), len(state.experts), allocation.num_experts
        if not moved:
            return state
        are = "is" if len(moved) == 1 else "are"
        said = (
            f"after round {state.round - 1} the clients were grouped again: {counted(before, 'expert')} became {now}, "
            f"and {len(moved)} of {counted(len(state.assignment), 'client')} {are} with others than before"
        )
        means = self._means(state.uploads, state.clients, allocation.assignment)
        state = replace(
            state,
            allocation=allocation,
            # Late clients come with a warm-up, so what places them are still warm-ups.
            centroids=centroids(state.origins, assign(state.origins, allocation.assignment)),
            assignment=dict(allocation.assignment),
            experts=tuple(means[expert] for expert in range(now)),
            notes=(*state.notes, said + ("; routers start anew" if any(state.routers) else "")),
        )
        # The experts that a router weighs are others now, and so may be the clients that an expert's number stands for.
        return self._with_new_routers(state)

    def _with_new_routers(self, state: FedLeaseState) -> FedLeaseState:
        routers, said = first_routers(self, state.adapter, len(state.experts), state.seed)
        news = (said,) if said and said not in state.notes else ()
        return replace(state, routers=routers, notes=(*state.notes, *news))

    def _means(
        self, uploads: Mapping[ClientId, Tensors], rows: Mapping[ClientId, int], assignment: Mapping[ClientId, int]
    ) -> dict[int, dict[str, Tensor]]:
        return expert_means(uploads, rows, assignment, weighting=self.weights, average=self.average, shrink=self.shrink)

    def _place(self, state: FedLeaseState, late: Mapping[ClientId, Tensors]) -> FedLeaseState:
        assert state.centroids is not None  # set together with the allocation
        waiting = {client: tensors for client, tensors in state.kept_out.items() if client in self.admitted}
        warmups = {**waiting, **late}
        placed = place_late(self, warmups, state.newcomers, state.centroids)
        kept_out = {client: tensors for client, tensors in state.kept_out.items() if client not in waiting}
        state = replace(
            state,
            assignment={**state.assignment, **placed.assignment},
            kept_out={**kept_out, **placed.kept_out},
            notes=(*state.notes, *placed.said),
        )
        if self.reallocate is None:
            return state
        taken = {client: warmups[client] for client in placed.assignment}
        return replace(
            state,
            uploads={**state.uploads, **taken},
            origins={**state.origins, **{client: b_matrices(tensors) for client, tensors in taken.items()}},
        )
