"""FedLEASE and its variants, built from the settings.

Every setting of ``fedlease.*`` becomes a parameter of the method or a wrapper around it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fedlease.core.aggregate import ClusterMeans
from fedlease.core.choices import (
    Average,
    Clustering,
    ExpertStart,
    GroupingName,
    RouterOwner,
    RouterStart,
    Routing,
    Signal,
    Unlike,
    Unsure,
)
from fedlease.core.types import ClientId
from fedlease.methods.base import Method, Terms
from fedlease.methods.fedlease import FedLease
from fedlease.methods.fedlease_groupings import ByClusters, Given, Grouping, PerClient, Random
from fedlease.methods.fedlease_halves import Halves
from fedlease.methods.fedlease_means import MEANS, outvoting
from fedlease.methods.fedlease_reallocation import Reallocate
from fedlease.methods.fedlease_similarity import BySimilarity
from fedlease.methods.fedlease_sketches import SketchedFedLease
from fedlease.methods.fedlease_unsure import ByLoss, JoinLater
from fedlease.methods.fedlease_wrappers import KeepOut, OwnStart, Selection

__all__ = ["build"]


def build(
    terms: Terms,
    *,
    grouping: GroupingName = "clusters",
    halves: bool = False,
    num_experts: int | None = None,
    assignment: Mapping[ClientId, int] | None = None,
    signal: Signal = "B",
    clustering: Clustering = "hierarchical",
    average: Average = "factors",
    trim: float = 0.1,
    routing: Routing = "top-m",
    router_start: RouterStart = "random",
    router: RouterOwner = "cluster",
    top_k: int | None = None,
    renormalise: bool = True,
    reallocate: int | None = None,
    expert_start: ExpertStart = "cluster",
    unlike: Unlike = "keep_out",
    admitted: tuple[ClientId, ...] = (),
    unsure: Unsure = "alone",
) -> Method:
    """Builds FedLEASE from the settings of ``fedlease.*``, which docs/configuration.md describes.

    :func:`fedlease.config.faults.cross_faults` refuses combinations of settings that do not fit together.
    """
    needs = outvoting(average, trim)
    # Sketches of any matrix arrive as B.
    compared: Signal = signal if terms.sketch is None else "B"
    groupings: dict[GroupingName, Any] = {
        "similarity": BySimilarity,
        "clusters": lambda: ByClusters(compared, clustering, num_experts, guarded=bool(needs)),
        "clients": PerClient,
        "random": lambda: Random(num_experts or 1),
        "given": lambda: Given(assignment or {}),
    }
    rule: Grouping = groupings[grouping]()
    routed = routing == "top-m"
    kind: Callable[..., FedLease] = FedLease
    if terms.sketch is not None:
        kind = partial(SketchedFedLease, numbers=terms.sketch, signal=signal)
    paper = kind(
        terms.budget,
        max_experts=terms.max_experts,
        min_silhouette=terms.min_silhouette,
        linkage=terms.linkage,
        weights=terms.weights,
        grouping=rule,
        means=ClusterMeans(MEANS[average](trim), needs),
        router_start=router_start if routed else None,
        columns=terms.columns,
        least=terms.least,
    )
    method: Method = paper if reallocate is None or halves else Reallocate(paper, reallocate)
    if halves:
        method = Halves(paper, grouping == "similarity", compared, private=terms.private)
        if reallocate is not None:
            method = JoinLater(method, reallocate)
        # The privacy budget epsilon does not cover a choice by the loss on rows.
        if unsure == "loss" and grouping == "similarity" and not routed and not terms.private:
            method = ByLoss(method, terms.max_experts)
    if routed and (top_k is not None or not renormalise or router == "client"):
        method = Selection(method, top_k, renormalise, router == "client", router_start)
    if expert_start == "client":
        method = OwnStart(method)
    return KeepOut(method, admitted, everyone=unlike == "place")
