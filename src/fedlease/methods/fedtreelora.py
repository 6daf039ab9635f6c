"""FedTreeLoRA: one tree over the clients, cut finer layer by layer; a scalar mixes cluster adapter and frozen outside.

Bian, Wang, Zhang, Xu: FedTreeLoRA: Reconciling Statistical and Functional Heterogeneity in Federated LoRA Fine-Tuning.
ICML 2026. https://arxiv.org/abs/2603.13282
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from fedlease.core.adapters import b_matrices, renumber, seed_experts
from fedlease.core.aggregate import Weighting, mean_update, weighted_mean
from fedlease.core.allocate import Centres, Linkage, assign, centres
from fedlease.core.codec import serialisable
from fedlease.core.tree import LayerCut, TreeDistance, cut_layers, layer_distances
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
from fedlease.errors import RunFailedError
from fedlease.methods.base import WARMUP, ab_names, by_client, waits

__all__ = ["FedTreeLoRA", "FedTreeLoRAState"]

ROUNDS = "tree"
CLUSTER, OUTSIDE = 0, 1
ALONE = 100.0
"""A mixing parameter whose sigmoid is exactly 1: where all clients share a layer there is no outside."""


@serialisable
@dataclass(frozen=True)
class FedTreeLoRAState:
    """Where a FedTreeLoRA run stands.

    Attributes:
        round: 0 until the tree is cut.
        adapter: what every client starts from.
        clients: client -> n_i.
        tries: client -> warm-ups that were refused.
        individuals: client -> the A and B it gave back last, its warm-up at first.
        layers: per layer, from the input on, who shares it; () until the tree is cut.
        groups: per layer, per group, its A and B, numbered as expert 0.
        outsides: per layer, per group, the mean A and B of the clients outside it; {} where there are none.
        allocation: the last layer's groups, for the record; its silhouettes are that layer's scores.
        centres: as in FedLEASE, for the record.
        middles: per group of the last layer the mean warm-up of its clients, which late ones are compared with.
        assignment: client -> group in the last layer.
        warnings: plain sentences.
    """

    round: int
    adapter: ClientModel
    clients: Mapping[ClientId, int]
    tries: Mapping[ClientId, int] = field(default_factory=dict)
    individuals: Mapping[ClientId, Tensors] = field(default_factory=dict)
    layers: tuple[LayerCut, ...] = ()
    groups: tuple[tuple[Tensors, ...], ...] = ()
    outsides: tuple[tuple[Tensors, ...], ...] = ()
    allocation: Allocation | None = None
    centres: Centres | None = None
    middles: tuple[Tensors, ...] = ()
    assignment: Mapping[ClientId, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class FedTreeLoRA:
    """Parameters of FedTreeLoRA.

    Attributes:
        budget: E, R and local epochs.
        window: K: a layer has at most K - 1 groups more than the one before; useful from 2 to 4. 1 is FedIT after a
            warm-up.
        tau: the score that a cut must beat to split the first time, in [-1, 1]; 1 never splits, -1 always does.
        outside: whether the frozen mean of the other groups' clients is mixed in; False is the grouping alone.
        distance: between the B of two clients: ``frobenius``, or ``cosine`` as in FedLEASE.
        linkage: of the tree.
        weights: how clients are weighted in their group.
    """

    budget: Budget
    window: int = 2
    tau: float = 0.05
    outside: bool = True
    distance: TreeDistance = "frobenius"
    linkage: Linkage = "average"
    weights: Weighting = "num_examples"

    @property
    def last_round(self) -> int:
        """R."""
        return self.budget.rounds

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> FedTreeLoRAState:
        """Everyone starts from the same adapter."""
        return FedTreeLoRAState(round=0, adapter=adapter, clients=dict(clients))

    def task(self, state: FedTreeLoRAState, client: ClientId) -> ClientTask | None:
        """A warm-up; then train every layer's cluster adapter and scalar, give the adapter back, keep the scalars."""
        if state.round > self.last_round:
            return None
        if client not in state.assignment:
            if not state.layers and not waits(client, state.individuals, state.tries):
                return None
            names = ab_names(state.adapter)
            stage = Stage(names, self.budget.warmup_epochs)
            return ClientTask(WARMUP, state.round, state.adapter, (stage,), upload=names)
        model = self.model(state, client)
        own = ab_names(model, CLUSTER)
        shared = {module for layer in state.layers if layer.num_groups == 1 for module in layer.modules}
        scalars = frozenset(
            name
            for name in model.tensors
            if (parsed := TensorName.parse(name)).kind == "G" and parsed.module not in shared
        )
        return ClientTask(ROUNDS, state.round, model, (Stage(own | scalars, self.budget.local_epochs),), upload=own)

    def aggregate(
        self, state: FedTreeLoRAState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> FedTreeLoRAState:
        """Warm-up: collects, and cuts the tree once everyone has answered. Rounds: means per layer and group."""
        updates = by_client(updates)
        individuals = {**state.individuals, **{update.client: update.tensors for update in updates}}
        state = replace(state, individuals=individuals)
        if not state.layers:
            state = replace(state, tries={**state.tries, **{c: state.tries.get(c, 0) + 1 for c in absent}})
            waiting = any(waits(client, individuals, state.tries) for client in state.clients)
            return state if waiting else self._cut(state)
        state = self._place(state, [update for update in updates if update.phase == WARMUP])
        trained = [update for update in updates if update.phase == ROUNDS]
        groups = tuple(
            tuple(self._mean(layer, g, trained) or before for g, before in enumerate(old))
            for layer, old in zip(state.layers, state.groups, strict=True)
        )
        return self._with_outsides(replace(state, round=state.round + 1, groups=groups))

    def model(self, state: FedTreeLoRAState, client: ClientId) -> ClientModel:
        """In every layer the adapter of the client's group and the mean of everyone outside it.

        The engine lays the client's own scalars over the initial ones, which weigh both halves alike.
        """
        if client not in state.assignment:
            return ClientModel(state.adapter.spec, state.individuals.get(client, state.adapter.tensors))
        tensors: dict[str, torch.Tensor] = {}
        for layer, groups in zip(state.layers, state.groups, strict=True):
            tensors.update(groups[layer.labels[client]])
        if not self.outside:
            return ClientModel(state.adapter.spec, tensors)
        for layer, groups, outsides in zip(state.layers, state.groups, state.outsides, strict=True):
            label = layer.labels[client]
            # Nobody outside: it takes no part, whatever stands there.
            tensors.update(renumber(outsides[label] or groups[label], OUTSIDE))
            for module in layer.modules:
                tensors[str(TensorName(module, "G"))] = torch.full((1,), 0.0 if outsides[label] else ALONE)
        return ClientModel(replace(state.adapter.spec, num_experts=2, own=CLUSTER, mixer="scalar"), tensors)

    def admit(self, state: FedTreeLoRAState, client: ClientId, num_examples: int) -> FedTreeLoRAState:
        """A late client warms up when it is next asked, and joins the nearest group of the last layer."""
        return replace(state, clients={**state.clients, client: num_examples})

    def group(self, state: FedTreeLoRAState, client: ClientId) -> int:
        """Its group in the last layer; before the tree is cut every client stands alone."""
        if client in state.assignment:
            return state.assignment[client]
        return -1 - sorted(state.clients).index(client)

    def _cut(self, state: FedTreeLoRAState) -> FedTreeLoRAState:
        if not state.individuals:
            raise RunFailedError("no client's warm-up could be used: there is nothing to build the tree from")
        b = {client: b_matrices(tensors) for client, tensors in state.individuals.items()}
        layers = cut_layers(b, window=self.window, tau=self.tau, linkage=self.linkage, distance=self.distance)
        last = layers[-1]
        allocation = replace(assign(b, last.labels), silhouettes={c: s for c, s in last.scores.items() if c > 1})
        cut = replace(
            state,
            round=1,
            layers=layers,
            groups=tuple(
                tuple(self._held(state, layer, g, inside=True) for g in range(layer.num_groups)) for layer in layers
            ),
            allocation=allocation,
            centres=centres(b, allocation),
            middles=seed_experts(allocation, state.individuals, state.clients, weighting="uniform"),
            assignment=dict(last.labels),
        )
        return self._with_outsides(cut)

    def _with_outsides(self, state: FedTreeLoRAState) -> FedTreeLoRAState:
        if not self.outside:
            return state
        outsides = (
            tuple(self._held(state, layer, g, inside=False) for g in range(layer.num_groups)) for layer in state.layers
        )
        return replace(state, outsides=tuple(outsides))

    def _held(self, state: FedTreeLoRAState, layer: LayerCut, group: int, *, inside: bool) -> Tensors:
        """Mean of what the clients in a group, or outside it, gave back last; {} without any."""
        clients = [client for client, label in sorted(layer.labels.items()) if (label == group) == inside]
        if not clients:
            return {}
        weights = [1.0 if self.weights == "uniform" else float(state.clients[client]) for client in clients]
        return weighted_mean([_of_layer(state.individuals[client], layer) for client in clients], weights)

    def _mean(self, layer: LayerCut, group: int, updates: Sequence[ClientUpdate]) -> Tensors | None:
        members = [
            replace(update, tensors=_of_layer(update.tensors, layer))
            for update in updates
            if layer.labels[update.client] == group
        ]
        return mean_update(members, weighting=self.weights) if members else None

    def _place(self, state: FedTreeLoRAState, late: Sequence[ClientUpdate]) -> FedTreeLoRAState:
        layers, warnings = state.layers, list(state.warnings)
        for update in late:
            compared = {"": b_matrices(update.tensors), **{str(g): b_matrices(m) for g, m in enumerate(state.middles)}}
            order = [int(name) for name in sorted(compared) if name]
            per_layer = layer_distances(compared, [layer.modules for layer in layers], self.distance)
            d = torch.stack(per_layer).mean(0)[0, 1:].tolist()  # sorted names: the late client is the first
            nearest = order[d.index(min(d))]
            # Groups are nested: whoever shares the last layer shares all before it.
            fellow = next(c for c, label in sorted(layers[-1].labels.items()) if label == nearest)
            layers = tuple(
                replace(layer, labels={**layer.labels, update.client: layer.labels[fellow]}) for layer in layers
            )
            warnings.append(
                f"client {update.client!r} came late and joined group {nearest} of the last layer, {min(d):.3f} from "
                f"the middle of its warm-ups; from that of the farthest group it is {max(d):.3f}"
            )
        return replace(state, layers=layers, assignment=dict(layers[-1].labels), warnings=tuple(warnings))


def _of_layer(tensors: Tensors, layer: LayerCut) -> dict[str, torch.Tensor]:
    """The A and B of one layer's modules, as expert 0."""
    names = [str(TensorName(module, kind, 0)) for module in layer.modules for kind in "AB"]
    return {name: tensors[name] for name in names}
