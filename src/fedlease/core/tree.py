"""One tree over the clients, cut at a lower height in deeper layers: a shared trunk, then ever finer groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedlease.core.choices import Linkage, TreeDistance
from fedlease.core.clustering import best_k, cuts, silhouette
from fedlease.core.codec import serialisable
from fedlease.core.distances import distances
from fedlease.core.types import ClientId

__all__ = ["LayerCut", "cut_layers", "layer_distances", "layers_of"]


@serialisable
@dataclass(frozen=True)
class LayerCut:
    """The groups of clients that share one layer.

    Attributes:
        modules: adapted modules of the layer, sorted.
        labels: client -> group in 0 .. c - 1, numbered by each group's smallest client.
        scores: c -> score, for every c that was considered.
    """

    modules: tuple[str, ...]
    labels: Mapping[ClientId, int]
    scores: Mapping[int, float] = field(default_factory=dict)

    @property
    def num_groups(self) -> int:
        """c, the number of groups."""
        return max(self.labels.values()) + 1


def layers_of(modules: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Adapted modules by layer, starting at the input: the first number in a module's path is its layer.

    Modules without a number form one layer each, after all others.
    """
    layers: dict[tuple[bool, int, str], list[str]] = {}
    for module in sorted(modules):
        number = next((int(part) for part in module.split(".") if part.isdecimal()), None)
        key = (True, 0, module) if number is None else (False, number, "")
        layers.setdefault(key, []).append(module)
    return tuple(tuple(layers[key]) for key in sorted(layers))


def layer_distances(
    b: Mapping[ClientId, Mapping[str, Tensor]], layers: Sequence[Sequence[str]], distance: TreeDistance
) -> list[Tensor]:
    """For every layer, the mean over its modules of the distance between B_i and B_j, (N, N) float64, clients sorted.

    Args:
        b: client -> module -> B of its warm-up, (out, r).
        layers: modules of every layer.
        distance: ``frobenius`` is the norm of B_i - B_j, ``cosine`` is 1 - cos(vec B_i, vec B_j).

    Raises:
        ValueError: as :func:`fedlease.core.distances.distances`.
    """
    found = []
    for modules in layers:
        part = {client: {module: b[client][module] for module in modules} for client in b}
        d = distances(part)[1]  # also checks the arguments
        if distance == "frobenius":
            d = torch.zeros_like(d)
            for module in modules:
                rows = torch.stack([part[client][module].double().flatten() for client in sorted(part)])
                d += torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") / len(modules)
        found.append(d)
    return found


def cut_layers(
    b: Mapping[ClientId, Mapping[str, Tensor]],
    *,
    window: int,
    tau: float,
    linkage: Linkage = "average",
    distance: TreeDistance = "frobenius",
) -> tuple[LayerCut, ...]:
    """Cuts the tree of the mean distances for every layer; no layer has fewer groups than the one before it.

    With c the number of groups of the layer before (1 at first), a layer considers c .. min(N, c + window) - 1 groups.
    The score of one group is ``tau``, and that of several is the mean silhouette on the layer's own distances. The best
    score wins, the fewer groups on a tie. All cuts are of one tree, so from layer to layer groups can only split.

    Args:
        b: client -> module -> B of its warm-up, (out, r).
        window: K, at least 1; with 1, all clients stay in one group.
        tau: score of one group, in [-1, 1]; with 1, all clients stay in one group.
        linkage: distance between two clusters of the tree.
        distance: between two B of one module.

    Raises:
        ValueError: as :func:`layer_distances`, or a parameter is out of range.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, received {window}")
    if not -1 <= tau <= 1:
        raise ValueError(f"tau must be in [-1, 1], received {tau}")
    if not b:
        raise ValueError("a tree needs at least one client, received none")
    clients = sorted(b)
    layers = layers_of(list(b[clients[0]]))
    per_layer = layer_distances(b, layers, distance)
    tree = torch.stack(per_layer).mean(0)
    chosen, groups = [], 1
    for modules, d in zip(layers, per_layer, strict=True):
        wanted = range(groups, max(min(len(clients), groups + window), groups + 1))
        labels = cuts(tree, wanted, linkage, "hierarchical")
        scores = {c: tau if c == 1 else silhouette(d, cut) for c, cut in labels.items()}
        # The number of groups of the layer before has a cut, whichever others ties make impossible.
        groups = best_k(scores) or groups
        ids: dict[int, int] = {}
        numbered = {client: ids.setdefault(int(g), len(ids)) for client, g in zip(clients, labels[groups], strict=True)}
        chosen.append(LayerCut(modules, numbered, scores))
    return tuple(chosen)
