"""FedTreeLoRA: a tree over the clients, cut finer layer by layer; scalars mix the group's adapter with the others'.

Bian, Wang, Zhang, Xu: FedTreeLoRA: Reconciling Statistical and Functional Heterogeneity in Federated LoRA Fine-Tuning.
ICML 2026. https://arxiv.org/abs/2603.13282
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedlease.core.adapters import b_matrices, renumber
from fedlease.core.aggregate import ClusterMeans, client_weights, weighted_mean
from fedlease.core.allocate import assign
from fedlease.core.choices import Linkage, TreeDistance, Weighting
from fedlease.core.codec import serialisable
from fedlease.core.placement import centroids
from fedlease.core.tree import LayerCut, cut_layers, layer_distances
from fedlease.core.types import (
    ClientId,
    ClientModel,
    ClientTask,
    ClientUpdate,
    Stage,
    TensorName,
    Tensors,
)
from fedlease.errors import RunFailedError
from fedlease.methods.base import CommonMethod, CommonState, Terms, by_client
from fedlease.methods.warmup import WARMUP

__all__ = ["FedTreeLoRA", "FedTreeLoRAState", "build"]

ROUNDS = "tree"
GROUP, REST = 0, 1
ALONE = 100.0
"""A mixing parameter whose sigmoid is exactly 1, for layers that all clients share, where there are no others."""


@serialisable
@dataclass(frozen=True, kw_only=True)
class FedTreeLoRAState(CommonState):
    """State of a FedTreeLoRA run.

    Attributes:
        individuals: client -> the A and B that it uploaded last, at first its warm-up.
        layers: the groups of every layer, starting at the input; () until the tree is cut.
        groups: per layer, per group, its A and B, numbered as expert 0.
        rests: per layer, per group, the mean A and B of all other clients; {} if the group has all clients.
        warmup_means: per group of the last layer, the mean warm-up of its clients, for placing late clients.
    """

    individuals: Mapping[ClientId, Tensors] = field(default_factory=dict)
    layers: tuple[LayerCut, ...] = ()
    groups: tuple[tuple[Tensors, ...], ...] = ()
    rests: tuple[tuple[Tensors, ...], ...] = ()
    warmup_means: tuple[Tensors, ...] = ()


@dataclass(frozen=True)
class FedTreeLoRA(CommonMethod):
    """Parameters of FedTreeLoRA.

    Attributes:
        window: K: a layer has at most K - 1 groups more than the one before; useful from 2 to 4. 1 is FedIT after a
            warm-up.
        tau: score that the first split must exceed, in [-1, 1]; 1 never splits, -1 always does.
        outside: whether the frozen mean of the clients of other groups is mixed in; False is the grouping alone.
        distance: between the B of two clients: ``frobenius``, or ``cosine`` as in FedLEASE.
        linkage: distance between two clusters of the tree.
        weights: weights of clients in the mean of a group.
    """

    window: int = 2
    tau: float = 0.05
    outside: bool = True
    distance: TreeDistance = "frobenius"
    linkage: Linkage = "average"
    weights: Weighting = "num_examples"

    averaged: ClassVar[tuple[str, ...]] = ("groups",)

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> FedTreeLoRAState:
        """All clients start from the same adapter."""
        return FedTreeLoRAState(round=0, adapter=adapter, clients=dict(clients))

    def task(self, state: FedTreeLoRAState, client: ClientId) -> ClientTask | None:
        """A warm-up first; then a task that trains the group's adapter, which is uploaded, and private scalars."""
        if state.round > self.last_round:
            return None
        if client not in state.assignment:
            return state.warmup.task(client, state.adapter, self.budget, state.round)
        model = self.model(state, client)
        own = model.names("AB", GROUP)
        shared = {str(TensorName(m, "G")) for layer in state.layers if layer.num_groups == 1 for m in layer.modules}
        scalars = model.names("G") - shared
        return ClientTask(ROUNDS, state.round, model, (Stage(own | scalars, self.budget.local_epochs),), upload=own)

    def aggregate(
        self, state: FedTreeLoRAState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> FedTreeLoRAState:
        """Collects warm-ups and cuts the tree after the last one; in rounds, averages per layer and group."""
        updates = by_client(updates)
        individuals = {**state.individuals, **{update.client: update.tensors for update in updates}}
        state = replace(state, individuals=individuals)
        if not state.layers:
            warmup = state.warmup.collect(updates, absent).used()  # ``individuals`` has the tensors
            state = replace(state, warmup=warmup)
            return state if warmup.pending(state.clients) else self._cut(state)
        state = self._place(state, [update for update in updates if update.phase == WARMUP])
        trained = {update.client: update for update in updates if update.phase == ROUNDS}
        uploads = {client: update.tensors for client, update in trained.items()}
        means = self._means(state.layers, uploads, {c: update.num_examples for c, update in trained.items()})
        groups = tuple(
            tuple(new.get(g, before) for g, before in enumerate(old))
            for new, old in zip(means, state.groups, strict=True)
        )
        return self._with_rests(replace(state, round=state.round + 1, groups=groups))

    def model(self, state: FedTreeLoRAState, client: ClientId) -> ClientModel:
        """In every layer, the adapter of the client's group and the mean of the other clients.

        The client replaces the initial scalars, with which both adapters weigh one half, by its own.
        """
        if client not in state.assignment:
            return ClientModel(state.adapter.spec, state.individuals.get(client, state.adapter.tensors))
        tensors: dict[str, Tensor] = {}
        for layer, groups in zip(state.layers, state.groups, strict=True):
            tensors.update(groups[layer.labels[client]])
        if not self.outside:
            return ClientModel(state.adapter.spec, tensors)
        for layer, groups, rests in zip(state.layers, state.groups, state.rests, strict=True):
            label = layer.labels[client]
            # Without other clients, the second adapter has weight 0, whatever its values are.
            tensors.update(renumber(rests[label] or groups[label], REST))
            for module in layer.modules:
                tensors[str(TensorName(module, "G"))] = torch.full((1,), 0.0 if rests[label] else ALONE)
        return ClientModel(replace(state.adapter.spec, num_experts=2, own=GROUP, mixer="scalar"), tensors)

    def group(self, state: FedTreeLoRAState, client: ClientId) -> int:
        """The client's group in the last layer; before the tree is cut, a group of its own."""
        if client in state.assignment:
            return state.assignment[client]
        return -1 - sorted(state.clients).index(client)

    def _cut(self, state: FedTreeLoRAState) -> FedTreeLoRAState:
        warmups = state.individuals
        if not warmups:
            raise RunFailedError("no client's warm-up could be used, so the tree cannot be built")
        b = {client: b_matrices(tensors) for client, tensors in warmups.items()}
        layers = cut_layers(b, window=self.window, tau=self.tau, linkage=self.linkage, distance=self.distance)
        last = layers[-1]
        allocation = replace(assign(b, last.labels), silhouettes={c: s for c, s in last.scores.items() if c > 1})
        groups = self._means(layers, warmups, state.clients)
        means = ClusterMeans()(warmups, dict.fromkeys(warmups, 1.0), last.labels)
        cut = replace(
            state,
            round=1,
            layers=layers,
            groups=tuple(tuple(found[g] for g in range(len(found))) for found in groups),
            allocation=allocation,
            centroids=centroids(b, last.labels),
            warmup_means=tuple(means[g] for g in range(last.num_groups)),
            assignment=dict(last.labels),
        )
        return self._with_rests(cut)

    def _means(
        self, layers: Sequence[LayerCut], uploads: Mapping[ClientId, Tensors], rows: Mapping[ClientId, int]
    ) -> list[dict[int, dict[str, Tensor]]]:
        """Per layer: group -> the mean of its clients' uploads."""
        weights = client_weights(rows, self.weights)
        return [
            ClusterMeans()({c: _of_layer(t, layer) for c, t in uploads.items()}, weights, layer.labels)
            for layer in layers
        ]

    def _with_rests(self, state: FedTreeLoRAState) -> FedTreeLoRAState:
        if not self.outside:
            return state
        rests = (tuple(self._rest(state, layer, g) for g in range(layer.num_groups)) for layer in state.layers)
        return replace(state, rests=tuple(rests))

    def _rest(self, state: FedTreeLoRAState, layer: LayerCut, group: int) -> Tensors:
        """Mean of the last uploads of the clients of other groups; {} if there are none."""
        others = {client: state.clients[client] for client, label in sorted(layer.labels.items()) if label != group}
        weights = client_weights(others, self.weights)
        states = [_of_layer(state.individuals[client], layer) for client in weights]
        return weighted_mean(states, list(weights.values())) if states else {}

    def _place(self, state: FedTreeLoRAState, late: Sequence[ClientUpdate]) -> FedTreeLoRAState:
        layers, notes = state.layers, list(state.notes)
        for update in late:
            compared = {
                "": b_matrices(update.tensors),
                **{str(g): b_matrices(m) for g, m in enumerate(state.warmup_means)},
            }
            order = [int(name) for name in sorted(compared) if name]
            per_layer = layer_distances(compared, [layer.modules for layer in layers], self.distance)
            d = torch.stack(per_layer).mean(0)[0, 1:].tolist()  # sorted names: the late client is the first
            nearest = order[d.index(min(d))]
            # Groups are nested: clients that share the last layer share all layers.
            fellow = next(c for c, label in sorted(layers[-1].labels.items()) if label == nearest)
            layers = tuple(
                replace(layer, labels={**layer.labels, update.client: layer.labels[fellow]}) for layer in layers
            )
            notes.append(
                f"client {update.client!r} came late and joined group {nearest + 1} of the last layer, {min(d):.3f} "
                f"from the mean of its warm-ups; the farthest group's is {max(d):.3f} away"
            )
        return replace(state, layers=layers, assignment=dict(layers[-1].labels), notes=tuple(notes))


def _of_layer(tensors: Tensors, layer: LayerCut) -> dict[str, Tensor]:
    """The A and B of one layer's modules, numbered as expert 0."""
    names = [str(TensorName(module, kind, 0)) for module in layer.modules for kind in "AB"]
    return {name: tensors[name] for name in names}


def build(terms: Terms, **own: Any) -> FedTreeLoRA:
    """FedTreeLoRA from the settings of ``fedtreelora.*``."""
    return FedTreeLoRA(terms.budget, linkage=terms.linkage, weights=terms.weights, **own)
