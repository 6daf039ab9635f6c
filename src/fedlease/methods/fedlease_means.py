"""Other means than the paper's for the experts of FedLEASE: by name, and drawn towards the mean of all clients."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from torch import Tensor

from fedlease.core.adapters import b_matrices
from fedlease.core.aggregate import ClusterMeans, Mean, clusters, weighted_mean
from fedlease.core.choices import Average, Shrink
from fedlease.core.distances import distances
from fedlease.core.low_rank import product_mean
from fedlease.core.medians import geometric_median, median
from fedlease.core.trimmed_mean import TrimmedMean
from fedlease.core.types import ClientId, TensorName, Tensors

__all__ = ["MEANS", "Shrunk", "head_mean", "outvoting", "shrinkage"]

LEAST = 3
"""Clients of which a median outvotes one."""

MEANS: dict[Average, Callable[[float], Mean]] = {
    "factors": lambda trim: weighted_mean,
    "product": lambda trim: product_mean,
    "trimmed": TrimmedMean,
    "median": lambda trim: median,
    "geometric-median": lambda trim: geometric_median,
}
"""``fedlease.average`` -> the mean, made with ``fedlease.trim``."""


def outvoting(average: Average, trim: float) -> int:
    """How many clients of equal weight a cluster needs so that its mean outvotes one of them; 0 for plain means."""
    if average == "trimmed":
        return math.ceil(1 / trim) if trim else 0
    return LEAST if average in ("median", "geometric-median") else 0


def head_mean(average: Any = "factors", trim: float = 0.1, **other: Any) -> Mean:
    """The mean of heads that are shared, of a method with these settings: heads are no products."""
    return MEANS[average](trim) if average in MEANS and outvoting(average, trim) else weighted_mean


@dataclass(frozen=True)
class Shrunk:
    """Expert c as (1 - w) x the mean over cluster c + w x the mean over everyone whose upload is here.

    Both are one mean over clients, and so is what is handed out: client i weighs (1 - w) n_i / n(c) inside the cluster,
    and w n_i / n(all) everywhere. With :func:`fedlease.core.aggregate.weighted_mean` that mean is taken of A and of B,
    each by itself. The update B A is then not shrunk by w: with means B_c, A_c of the cluster and B, A of all it
    becomes (1 - w)^2 B_c A_c + w (1 - w) (B_c A + B A_c) + w^2 B A, with mixed terms that are nobody's update.
    :func:`fedlease.core.low_rank.product_mean` shrinks the products themselves, as far as rank r allows. Routers are
    never shrunk: what they weigh differs from cluster to cluster.

    Attributes:
        share: w in [0, 1]: 0 is the mean of the cluster, 1 one adapter for all; ``auto``: see :func:`shrinkage`.
        mean: averages several clients.
        needs: see :class:`fedlease.core.aggregate.ClusterMeans`.
    """

    share: Shrink
    mean: Mean = weighted_mean
    needs: int = 0

    def __call__(
        self, uploads: Mapping[ClientId, Tensors], weights: Mapping[ClientId, float], assignment: Mapping[ClientId, int]
    ) -> dict[int, dict[str, Tensor]]:
        """Cluster -> its expert, and its router where routers were uploaded; as :class:`ClusterMeans`."""
        routers = {client: _of_routers(tensors, True) for client, tensors in uploads.items()}
        adapters = {client: _of_routers(tensors, False) for client, tensors in uploads.items()}
        means = ClusterMeans(self.mean)(routers, weights, assignment)
        groups = clusters(uploads, assignment)
        automatic = shrinkage(adapters, assignment) if uploads and self.share == "auto" else {}
        for cluster, members in groups.items():
            w = automatic[cluster] if self.share == "auto" else self.share
            chosen, scaled = members, [weights[client] for client in members]
            if w != 0 and len(members) < len(uploads):
                chosen = sorted(uploads)
                inside, everyone = sum(scaled), sum(weights[client] for client in chosen)
                scaled = [
                    (1 - w) * weights[c] / inside * (assignment[c] == cluster) + w * weights[c] / everyone
                    for c in chosen
                ]
            means[cluster] |= self.mean([adapters[client] for client in chosen], scaled)
        return means


def shrinkage(uploads: Mapping[ClientId, Tensors], assignment: Mapping[ClientId, int]) -> dict[int, float]:
    """How far each cluster's mean is drawn towards the mean of all: expert -> w in [0, 1].

    The empirical Bayes weight of a random effects model, from the distances of the very uploads that are averaged.
    Directions of B are taken to be m + t_c + e_i, with t_c of variance T between clusters and e_i of variance V between
    the clients of one. Cosine distances are half of squared ones between unit vectors, so the mean distance within
    clusters is V and the mean distance between clusters is V + T. The mean of n clients has the variance V / n about
    m + t_c, and of all (1 - w) x mean(c) + w x m the one nearest to m + t_c has

        w = (V / n) / (V / n + T) = (1 - s) / (1 + (n - 1) s),    s = T / (V + T) = 1 - d_within / d_between.

    s is the silhouette, with all other clusters instead of the nearest. A sure cut (s = 1) is left alone; where
    clients of other clusters are as near as one's own (s <= 0), w = 1 gives everyone the mean of all; larger clusters
    are drawn less. Without two clients in some cluster, or two clusters, there is nothing to tell them by, and w = 0.

    Args:
        uploads: client -> A and B, numbered as expert 0.
        assignment: client -> expert.
    """
    clients, d = distances({client: b_matrices(tensors) for client, tensors in uploads.items()})
    within: list[float] = []
    between: list[float] = []
    for (i, one), (j, other) in combinations(enumerate(clients), 2):
        (within if assignment[one] == assignment[other] else between).append(float(d[i, j]))
    groups = clusters(clients, assignment)
    if not within or not between:
        return dict.fromkeys(groups, 0.0)
    inner, outer = sum(within) / len(within), sum(between) / len(between)
    s = max(0.0, 1 - inner / outer) if outer > 0 else 0.0
    return {expert: (1 - s) / (1 + (len(members) - 1) * s) for expert, members in groups.items()}


def _of_routers(tensors: Tensors, wanted: bool) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if (TensorName.parse(name).kind == "G") == wanted}
