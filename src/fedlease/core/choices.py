"""Choices of the algorithm, by name. No torch here, so that settings may import them."""

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
"""How clients are weighted in a mean."""

Average = Literal["factors", "product", "trimmed", "median", "geometric-median"]
"""How a cluster is averaged: A and B each by itself (paper), by their products, without outliers, or by a median."""

ServerRule = Literal["none", "momentum", "adagrad", "adam", "yogi"]
"""How the server steps from what it sent to the mean of what came back: onto it, or by an optimiser of its own."""

Linkage = Literal["average", "complete", "single"]
"""How far two clusters are apart, from the distances of their members."""

LrSchedule = Literal["constant", "linear"]
StopMetric = Literal["score", "loss"]
"""How the learning rate goes over the steps of a stage: it stays, or falls by equal steps to 0 after the last one."""

Clustering = Literal["hierarchical", "spectral"]
"""How clients are grouped by their distances."""

Signal = Literal["B", "A", "BA"]
"""The matrices of the warm-ups that are compared."""

GroupingName = Literal["clusters", "similarity", "clients", "random", "given"]
"""The rule by which clients are assigned to experts."""

RouterStart = Literal["random", "own"]
"""How routers begin."""

Routing = Literal["top-m", "own"]
"""Whether a client uses the experts that its router selects (paper), or its own alone."""

RouterOwner = Literal["cluster", "client"]
"""Whether a router is averaged in the cluster (paper), or private."""

ExpertStart = Literal["cluster", "client"]
"""Whether round 1 starts from the cluster's mean (paper), or from the client's own warm-up."""

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
"""Settings of FedLEASE+ that differ from FedLEASE's."""

HeadPolicy = Literal["local", "shared", "frozen"]
"""The treatment of classifier heads: trained and private, averaged within a group, or left at their initial value."""

Unsure = Literal["alone", "loss"]
"""The treatment of a client that has not learnt its task in the warm-up: alone, or with the expert that comes to fit
its rows better than what it had learnt."""

Against = Literal["name", "refuse"]
"""The treatment of an update that points against the others of its cluster."""

FactorStart = Literal["adapters", "weights"]
"""The source of Fed-SB's frozen factors: warm-ups of A and B, or of all weights of the adapted modules."""

CandidateStart = Literal["groups", "clients"]
"""The source of IFCA's candidates: the first updates of random groups of clients, or of single clients."""

TreeDistance = Literal["frobenius", "cosine"]
"""The distance between the B of two clients, for the tree of FedTreeLoRA."""

Kind = Literal["groups", "one for all", "partly own", "not federated", "added"]
"""What methods share: an adapter in each group of clients, one by all, a part of each client's own, nothing between
clients or all rows; of a method that another package adds it is not known."""
