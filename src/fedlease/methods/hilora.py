"""HiLoRA: one adapter for all clients, then one per cluster on top of it, then one per client on top of both.

Peng, Zou, Zeng, Li, Chen, Li, Wang: HiLoRA: Hierarchical Low-Rank Adaptation for Personalized Federated Learning.
CVPR 2026. https://arxiv.org/abs/2603.02785
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from fedlease.core.adapters import b_matrices, renumber
from fedlease.core.aggregate import ClusterMeans, client_weights, mean_update
from fedlease.core.choices import Weighting
from fedlease.core.codec import serialisable
from fedlease.core.local_term import LocalTerm
from fedlease.core.subspaces import grouped, nearest, smoothed
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Stage, Tensors
from fedlease.methods.base import CommonMethod, CommonState, Terms, by_client

__all__ = ["HiLoRA", "HiLoRAState", "build"]

TIERS = ("root", "cluster", "leaf")
"""Names of the phases, in which experts 0, 1 and 2 of a client's model are trained."""


@serialisable
@dataclass(frozen=True, kw_only=True)
class HiLoRAState(CommonState):
    """State of a HiLoRA run; ``adapter`` is the root.

    Attributes:
        start: A and B from which every tier starts.
        clusters: A and B of every cluster; () before the clustering.
        subspaces: client -> module -> running mean of its B of the root tier.
    """

    start: Tensors
    clusters: tuple[Tensors, ...] = ()
    subspaces: Mapping[ClientId, Tensors] = field(default_factory=dict)


@dataclass(frozen=True)
class HiLoRA(CommonMethod):
    """Parameters of HiLoRA. It has no warm-up and spends the whole budget T in rounds, tier after tier.

    Attributes:
        weights: weights of clients in a mean.
        max_clusters: largest number of clusters, at least 2.
        root: share of the rounds in which the root is trained, but at least the rounds that replace a warm-up, in which
            every client is asked.
        cluster: share of the rounds in which clusters are trained; leaves are trained in the others.
        apart: gamma, weight of ||B_above^T B||^2 in the local loss for every tier above, at least 0.
        smoothing: weight of earlier rounds in a client's mean B, in [0, 1).
    """

    weights: Weighting = "num_examples"
    max_clusters: int = 8
    root: float = 0.4
    cluster: float = 0.4
    apart: float = 0.1
    smoothing: float = 0.9

    averaged: ClassVar[tuple[str, ...]] = ("adapter", "clusters")
    warms_up: ClassVar[bool] = False

    def tier(self, round_: int) -> int:
        """The tier that is trained in a round."""
        root = min(self.last_round, max(self.budget.opening_rounds, round(self.root * self.last_round)))
        return (round_ > root) + (round_ > root + round(self.cluster * self.last_round))

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> HiLoRAState:
        """The initial adapter is the first root, from which clusters and leaves start too."""
        return HiLoRAState(round=1, adapter=adapter, clients=dict(clients), start=adapter.tensors)

    def task(self, state: HiLoRAState, client: ClientId) -> ClientTask | None:
        """A task that trains the adapter of the tier on top of the frozen ones above; a leaf is private.

        A late client first trains the root once, which only serves to place it in a cluster.
        """
        if state.round > self.last_round:
            return None
        model = self.model(state, client)
        tier = model.spec.num_experts - 1
        names = model.names("AB", tier)
        stage = Stage(names, self.budget.epochs(state.round))
        term = LocalTerm(apart=self.apart) if self.apart and tier else None
        upload = names if tier < 2 else frozenset[str]()
        return ClientTask(TIERS[tier], state.round, model, (stage,), upload=upload, term=term)

    def aggregate(
        self, state: HiLoRAState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> HiLoRAState:
        """Averages the root, or every cluster; clusters are made after the last round of the root."""
        updates = by_client(updates)
        after = self._seen(state, [update for update in updates if update.phase == TIERS[0]])
        if not self.tier(state.round):
            mean = mean_update(updates, self.weights) if updates else {}
            after = replace(after, adapter=replace(state.adapter, tensors={**state.adapter.tensors, **mean}))
        own = {update.client: renumber(update.tensors, 0) for update in updates if update.phase == TIERS[1]}
        if own:
            weights = client_weights({update.client: update.num_examples for update in updates}, self.weights)
            means = ClusterMeans()(own, weights, state.assignment)
            clusters = tuple(means.get(number, before) for number, before in enumerate(state.clusters))
            after = replace(after, clusters=clusters)
        after = replace(after, round=state.round + 1)
        return self._begin(after) if not state.clusters and self.tier(after.round) else after

    def model(self, state: HiLoRAState, client: ClientId) -> ClientModel:
        """The adapters of all tiers reached so far; the client replaces the initial leaf by its own."""
        tiers = [state.adapter.tensors]
        if client in state.assignment:
            tiers += [state.clusters[state.assignment[client]], state.start][: self.tier(state.round)]
        if len(tiers) == 1:
            return state.adapter
        spec = replace(state.adapter.spec, num_experts=len(tiers), mixer="sum")
        named = [renumber(own, tier) for tier, own in enumerate(tiers)]
        above = frozenset(name for own in named[:-1] for name in own)
        return ClientModel(spec, {name: tensor for own in named for name, tensor in own.items()}, kept=above)

    def group(self, state: HiLoRAState, client: ClientId) -> int:
        """The client's cluster; before the clustering, all clients are one group."""
        return state.assignment.get(client, 0)

    def _seen(self, state: HiLoRAState, updates: Sequence[ClientUpdate]) -> HiLoRAState:
        """The state with updated mean B of clients that trained the root, and with late clients placed in clusters."""
        subspaces, assignment = dict(state.subspaces), dict(state.assignment)
        for update in updates:
            known = subspaces.get(update.client)
            subspaces[update.client] = smoothed(known, b_matrices(update.tensors), self.smoothing)
            if state.clusters:
                others = {client: state.subspaces[client] for client in state.assignment}
                assignment[update.client] = nearest(subspaces[update.client], others, state.assignment)
        return replace(state, subspaces=dict(sorted(subspaces.items())), assignment=dict(sorted(assignment.items())))

    def _begin(self, state: HiLoRAState) -> HiLoRAState:
        """The state with the clusters of all clients that have trained; unchanged if none has."""
        if not state.subspaces:
            return state
        allocation = grouped(state.subspaces, self.max_clusters)
        clusters = (state.start,) * allocation.num_experts
        return replace(state, allocation=allocation, assignment=dict(allocation.assignment), clusters=clusters)


def build(
    terms: Terms, *, root: float = 0.4, cluster: float = 0.4, apart: float = 0.1, smoothing: float = 0.9
) -> HiLoRA:
    """HiLoRA from the settings of ``hilora.*``."""
    return HiLoRA(terms.budget, terms.weights, terms.max_experts, root, cluster, apart, smoothing)
