"""The named choices of the algorithm. This file does not import torch, so that settings can import it."""

from typing import Any, Literal

__all__ = [
    "PLUS",
    "Against",
    "Average",
    "CandidateStart",
    "Clustering",
    "ExpertStart",
    "FactorStart",
    "GroupingName",
    "HeadPolicy",
    "Kind",
    "Linkage",
    "LrSchedule",
    "RouterOwner",
    "RouterStart",
    "Routing",
    "ServerRule",
    "Signal",
    "StopMetric",
    "TreeDistance",
    "Unlike",
    "Unsure",
    "Weighting",
]

Weighting = Literal["num_examples", "uniform"]
"""The weight of a client in a mean: its number of rows, or 1."""

Average = Literal["factors", "product", "trimmed", "median", "geometric-median"]
"""The mean of a cluster: of A and of B separately (paper), of their products, without outliers, or a median."""

ServerRule = Literal["none", "momentum", "adagrad", "adam", "yogi"]
"""The server's step from the model that it sent towards the mean of the updates: onto the mean, or by an optimiser."""

Linkage = Literal["average", "complete", "single"]
"""The distance between two clusters, computed from the distances of their members."""

LrSchedule = Literal["constant", "linear"]
"""The learning rate over the steps of a stage: constant, or falling in equal steps to 0 after the last one."""

StopMetric = Literal["score", "loss"]
"""The figure that early stopping watches."""

Clustering = Literal["hierarchical", "spectral"]
"""The algorithm that groups clients by their distances."""

Signal = Literal["B", "A", "BA"]
"""The matrices of the warm-ups that are compared: B (paper), A, or their products B A."""

GroupingName = Literal["clusters", "similarity", "clients", "random", "given"]
"""The rule by which clients are assigned to experts."""

RouterStart = Literal["random", "own"]
"""The initial values of routers, see :func:`fedlease.core.adapters.initial_router`."""

Routing = Literal["top-m", "own"]
"""The experts that a client uses: those that its router selects (paper), or only its own."""

RouterOwner = Literal["cluster", "client"]
"""The owner of a router: it is averaged in the cluster (paper), or private to the client."""

ExpertStart = Literal["cluster", "client"]
"""The start of round 1: the cluster's mean (paper), or the client's own warm-up."""

Unlike = Literal["keep_out", "place"]
"""The treatment of a newcomer that is unlike every expert."""

PLUS: dict[str, Any] = {
    "halves": True,
    "grouping": "similarity",
    "signal": "BA",
    "average": "product",
    "routing": "own",
    "unsure": "loss",
}
"""The settings in which FedLEASE+ differs from FedLEASE."""

HeadPolicy = Literal["local", "shared", "frozen"]
"""The treatment of classifier heads: trained and private, averaged within a group, or left at their initial value."""

Unsure = Literal["alone", "loss"]
"""The treatment of a client that has not learnt its task in the warm-up: it stays alone, or joins the first expert
that clearly fits its rows better than its own warm-up."""

Against = Literal["name", "refuse"]
"""The treatment of an update that points against the others of its cluster."""

FactorStart = Literal["adapters", "weights"]
"""The source of Fed-SB's frozen factors: warm-ups of A and B, or of all weights of the adapted modules."""

CandidateStart = Literal["groups", "clients"]
"""The source of IFCA's candidates: the first updates of random groups of clients, or of single clients."""

TreeDistance = Literal["frobenius", "cosine"]
"""The distance between the B of two clients, for the tree of FedTreeLoRA."""

Kind = Literal["groups", "one for all", "partly own", "not federated", "added"]
"""What clients share under a method: one adapter per group, one for all, only a part of each adapter, or nothing (or
all rows, in central training); ``added`` stands for methods of other packages, of which this is not known."""
