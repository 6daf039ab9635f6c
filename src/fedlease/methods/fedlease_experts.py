"""What FedLEASE hands out: experts as means within the clusters (paper) or as its variants say, and routers."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from fedlease.core.adapters import b_matrices, initial_router
from fedlease.core.aggregate import Weighting, mean_update, weighted_mean
from fedlease.core.distances import distances
from fedlease.core.low_rank import product_mean
from fedlease.core.types import ClientId, ClientModel, ClientUpdate, Tensors
from fedlease.core.wording import counted

if TYPE_CHECKING:
    from fedlease.methods.fedlease import FedLease

__all__ = ["Average", "Shrink", "expert_means", "first_routers", "router_means", "shrinkage"]

Average = Literal["factors", "product"]
Shrink = float | Literal["auto"]


def expert_means(
    uploads: Mapping[ClientId, Tensors],
    rows: Mapping[ClientId, int],
    assignment: Mapping[ClientId, int],
    *,
    weighting: Weighting = "num_examples",
    average: Average = "factors",
    shrink: Shrink = 0.0,
) -> dict[int, dict[str, Tensor]]:
    """Expert c as (1 - w) x the mean over cluster c + w x the mean over everyone whose upload is here.

    Both are one weighted mean over clients, and so is what is handed out: client i weighs (1 - w) n_i / n(c) inside the
    cluster, and w n_i / n(all) everywhere. With ``factors`` that mean is taken of A and of B, each by itself. The
    update B A is then not shrunk by w: with means B_c, A_c of the cluster and B, A of all it becomes
    (1 - w)^2 B_c A_c + w (1 - w) (B_c A + B A_c) + w^2 B A, with mixed terms that are nobody's update. ``product``
    shrinks the products themselves, as far as rank r allows.

    Args:
        uploads: client -> A and B, numbered as expert 0.
        rows: client -> n_i.
        assignment: client -> expert; others than those in ``uploads`` may be named.
        weighting: by n_i, or uniform.
        average: ``factors`` (paper), or ``product``: see :func:`fedlease.core.low_rank.product_mean`.
        shrink: w in [0, 1], 0 for the paper's mean; or ``auto``, see :func:`shrinkage`.

    Returns:
        Expert -> its A and B, numbered as expert 0; an expert without uploads is left out.
    """
    if not uploads:
        return {}
    clients = sorted(uploads)
    n = {client: 1.0 if weighting == "uniform" else float(rows[client]) for client in clients}
    clusters = _clusters(clients, assignment)
    shares = shrinkage(uploads, assignment) if shrink == "auto" else dict.fromkeys(clusters, shrink)
    mean = weighted_mean if average == "factors" else product_mean
    experts = {}
    for expert, members in clusters.items():
        w = shares[expert]
        if w == 0 or len(members) == len(clients):
            chosen, weights = members, [n[client] for client in members]
        else:
            inside, everyone = sum(n[client] for client in members), sum(n.values())
            chosen = clients
            weights = [(1 - w) * n[c] / inside * (assignment[c] == expert) + w * n[c] / everyone for c in clients]
        experts[expert] = mean([uploads[client] for client in chosen], weights)
    return experts


def shrinkage(uploads: Mapping[ClientId, Tensors], assignment: Mapping[ClientId, int]) -> dict[int, float]:
    """How far each cluster's mean is drawn towards the mean of all: expert -> w in [0, 1].

    The empirical Bayes weight of a random effects model, from the distances of the very uploads that are averaged.
    Directions of B are taken to be m + t_c + e_i, with t_c of variance T between clusters and e_i of variance V between
    the clients of one. Cosine distances are half of squared ones between unit vectors, so the mean distance within
    clusters is V and the mean distance between clusters is V + T. The mean of n clients has the variance V / n about
    m + t_c, and of all (1 - w) x mean(c) + w x m the one nearest to m + t_c has

        w = (V / n) / (V / n + T) = (1 - s) / (1 + (n - 1) s),    s = T / (V + T) = 1 - d_within / d_between.

    s is the silhouette, with all other clusters in the place of the nearest. A sure cut (s = 1) is left alone; where
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
    clusters = _clusters(clients, assignment)
    if not within or not between:
        return dict.fromkeys(clusters, 0.0)
    inner, outer = sum(within) / len(within), sum(between) / len(between)
    s = max(0.0, 1 - inner / outer) if outer > 0 else 0.0
    return {expert: (1 - s) / (1 + (len(members) - 1) * s) for expert, members in clusters.items()}


def first_routers(
    method: "FedLease", adapter: ClientModel, num_experts: int, seed: int
) -> tuple[tuple[dict[str, Tensor], ...], str]:
    """One router per cluster, all the same, and a sentence about a ``top_k`` that does not go with it, or nothing.

    Args:
        method: see its ``routing``, ``router_start``, ``top_k`` and ``renormalise``.
        adapter: the common initial one, for the shapes.
        num_experts: M; with one expert a router is empty.
        seed: root seed.
    """
    if num_experts == 1 or method.routing == "own":
        return ({},) * num_experts, ""
    router = initial_router(adapter, num_experts, seed, method.router_start)
    slots, kept, said = 2 * num_experts - 1, method.top_k, ""
    if kept is not None and kept > slots:
        most = f"{counted(num_experts, 'expert')} {'makes' if num_experts == 1 else 'make'} {slots}"
        said = f"fedlease.top_k: {kept} slots were to be kept, but {most}: all are kept"
    elif kept == 1 and method.renormalise:
        said = (
            "fedlease.top_k: the one slot that is kept weighs 1 whatever its logit is, so routers are not trained and "
            "stay as they were drawn; fedlease.renormalise=false trains them"
        )
    elif kept is not None and kept <= num_experts // 2 and method.router_start == "own" and method.renormalise:
        said = (
            f"fedlease.top_k: with router_start = 'own' the {kept} largest of {slots} slots are own ones at first: "
            "the router has next to nothing to learn from"
        )
    return (router,) * num_experts, said


def router_means(
    updates: Sequence[ClientUpdate],
    routers: Sequence[Tensors],
    assignment: Mapping[ClientId, int],
    weighting: Weighting,
) -> tuple[Tensors, ...]:
    """Every cluster's mean router; a router that nobody sent, or that clients keep, stays as it is.

    Args:
        updates: of this round.
        routers: expert -> its cluster's router.
        assignment: client -> expert.
        weighting: by n_i, or uniform.
    """
    means = []
    for expert, router in enumerate(routers):
        members = [update for update in updates if assignment[update.client] == expert]
        sent = bool(members) and router.keys() <= members[0].tensors.keys()
        means.append(mean_update(members, router.keys(), weighting=weighting) if sent else router)
    return tuple(means)


def _clusters(clients: Sequence[ClientId], assignment: Mapping[ClientId, int]) -> dict[int, list[ClientId]]:
    """Expert -> its clients among these, both in order."""
    return {e: [c for c in clients if assignment[c] == e] for e in sorted({assignment[client] for client in clients})}
