"""The settings of methods, one section for each method that has any; a section reaches its method alone."""

from typing import Annotated

from pydantic import Field

from fedlease.config.sections import Fraction, Positive, Section
from fedlease.core.choices import (
    PLUS,
    Average,
    CandidateStart,
    Clustering,
    ExpertStart,
    FactorStart,
    GroupingName,
    RouterOwner,
    RouterStart,
    Routing,
    ServerRule,
    Signal,
    TreeDistance,
    Unlike,
    Unsure,
)

__all__ = [
    "FedDPASettings",
    "FedLeasePlusSettings",
    "FedLeaseSettings",
    "FedMomentumSettings",
    "FedProxSettings",
    "FedRoRASettings",
    "FedRotLoRASettings",
    "FedSBSettings",
    "FedSVDSettings",
    "FedTreeLoRASettings",
    "HetLoRASettings",
    "HiLoRASettings",
    "IFCASettings",
    "RavanSettings",
    "SLoRASettings",
    "ServerStepSettings",
]


class ServerStepSettings(Section):
    """The server's own optimiser (FedOpt), for every method that averages A and B; heads are averaged as ever."""

    rule: ServerRule = "none"
    """``none``: what is averaged is handed out; else the server steps towards it, by ``momentum`` (FedAvgM), or by
    ``adagrad``, ``adam`` or ``yogi``. Baselines without a mean of A and B run as they are."""
    lr: Annotated[float, Field(gt=0, le=100)] | None = None
    """Learning rate of the server; None: 1 - ``momentum`` under ``momentum``, 0.01 under the others. Useful: 0.1 to 1
    under ``momentum``; 0.001 to 0.1 under the others, a few times the distance that a weight goes in a round."""
    momentum: Fraction = 0.9
    """Share of the past in the direction of a step (beta_1). Useful: 0 to 0.95."""
    beta2: Fraction = 0.99
    """Share of the past in the squares that ``adam`` and ``yogi`` divide by."""
    tau: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Added to the root of those squares: the smaller, the more alike all weights step. Useful: 1e-5 to
    0.1."""


class FedLeaseSettings(Section):
    """Variants of FedLEASE, for ablations and trials; the defaults are the paper's method."""

    grouping: GroupingName = "clusters"
    """``clusters`` (paper); ``similarity``: by what halves of a client's rows have in common with those of others
    (ours, needs ``halves``); ``clients``: one expert per client; ``random``: ``num_experts`` groups; ``given``."""
    halves: bool = False
    """The warm-up tells what either half of a client's rows has added to B, and so how much of it is the client's task.
    Clients make about equal numbers of steps. Ours."""
    num_experts: Positive | None = None
    """This M whatever the silhouettes say; None lets them choose."""
    assignment: dict[str, int] | None = None
    """Client -> group, for ``grouping: given``."""
    signal: Signal = "B"
    """Which matrices of the warm-ups are compared."""
    clustering: Clustering = "hierarchical"
    """How clients are grouped by their distances."""
    expert_start: ExpertStart = "cluster"
    """Round 1 from the cluster's mean, or from the client's own warm-up."""
    routing: Routing = "top-m"
    """``own``: every client uses its own expert alone."""
    top_k: Positive | None = None
    """Router slots kept; None keeps M, the adaptive selection."""
    renormalise: bool = True
    """Whether kept weights sum to 1."""
    router: RouterOwner = "cluster"
    """Routers averaged in the cluster, or kept by the client."""
    router_start: RouterStart = "random"
    """Routers begin at random (released code), or with nearly all weight on the own expert. Ours, on trial."""
    average: Average = "factors"
    """A cluster's mean is taken of A and of B, of their ``product`` (ours, on trial), or of A, B and routers
    without the largest and smallest values (``trimmed``), or of one vote per client (``median`` of every value,
    ``geometric-median`` of all together), which a few wrong or hostile clients cannot carry away."""
    magnitude: Annotated[float, Field(ge=0, le=1e4)] = 0.0
    """0: none; else every client has a number of its own for each rank of its expert, which is trained, never sent, and
    learns so many times as fast as A and B. Useful: 1 to 100. Needs ``routing: own``."""
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Share of a cluster's weight that ``average: trimmed`` leaves out at each end of every value."""
    unlike: Unlike = "keep_out"
    """A client that comes after the start and whose warm-up is farther from every expert than that expert's own clients
    are: it is kept out and reported, or placed with the nearest all the same."""
    admitted: tuple[str, ...] = ()
    """Late clients that are placed however unlike they are; may be given when a run is resumed over Flower."""
    reallocate: Positive | None = None
    """Number of rounds after which clients are grouped anew, each time; with ``halves``, those that had not
    learnt their task. None groups once. Ours, on trial."""
    unsure: Unsure = "alone"
    """A client that has not learnt its task in the warm-up stays ``alone``, or in every round compares the ``loss`` of
    the other experts on its rows, and joins one that is clearly better than what it had learnt. Ours; needs
    ``grouping: similarity`` and ``routing: own``. Under ``fedlease_plus`` with others, and under ``privacy.epsilon``,
    nobody compares."""


class FedLeasePlusSettings(FedLeaseSettings):
    """FedLEASE with a first phase that knows how sure it is: the settings of ``fedlease``, with other defaults."""

    halves: bool = PLUS["halves"]
    grouping: GroupingName = PLUS["grouping"]
    signal: Signal = PLUS["signal"]
    average: Average = PLUS["average"]
    routing: Routing = PLUS["routing"]
    unsure: Unsure = PLUS["unsure"]


class HetLoRASettings(Section):
    """HetLoRA."""

    gamma: Annotated[float, Field(gt=0, le=1)] = 0.99
    """A client's directions from gamma x rank on are given up in the round in which training makes them smaller; at
    least one is kept. 1 prunes nobody. Useful: 0.5 to 1; near 1, one direction at a time."""
    penalty: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    """How strongly those directions are drawn to zero in the local loss. Useful: 0 to 0.1."""


class HiLoRASettings(Section):
    """HiLoRA."""

    root: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Share of the rounds in which the adapter of all is trained; never fewer than those that take the place of a
    warm-up."""
    cluster: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Share of the rounds in which those of the clusters are; clients' own are trained in the rest."""
    apart: Annotated[float, Field(ge=0, le=1e6)] = 0.1
    """How strongly each tier's B is kept orthogonal to those above in the local loss (gamma). Useful: 0 to 1."""
    smoothing: Fraction = 0.9
    """Share of the past in the B of a client that clusters are found by."""


class IFCASettings(Section):
    """IFCA."""

    num_candidates: Positive = 4
    """K, adapters that compete."""
    candidate_start: CandidateStart = "groups"
    """What they are made of: means of the warm-ups of random groups of clients, or those of K clients drawn."""


class FedDPASettings(Section):
    """FedDPA."""

    blend: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Largest share of the local adapter."""
    num_anchors: Positive = 5
    """Train rows that an input is compared with."""


class FedProxSettings(Section):
    """FedProx."""

    mu: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    """How strongly a client's weights are pulled to those that it received; 0 is FedIT. Useful: 0.001 to 1."""


class FedMomentumSettings(Section):
    """FedMomentum."""

    energy: Annotated[float, Field(gt=0, le=1)] = 0.9999
    """Share of the squared singular values of each round's mean that is kept, the largest first; what of it is beyond
    the adapter's rank is added to the frozen weights. 1 loses nothing. Useful: 0.99 to 1."""


class FedSBSettings(Section):
    """Fed-SB."""

    start: FactorStart = "adapters"
    """What the frozen factors are set by: the mean of the clients' warm-ups of A and B, or, as in LoRA-SB, of all
    weights of the adapted modules, which are then sent once, whole."""


class FedRoRASettings(Section):
    """FedRoRA."""

    gain: Annotated[float, Field(gt=0, le=1e4)] = 100.0
    """Learning rate of the diagonal over that of A and B. Useful: what makes ``train.lr`` x ``gain`` about 0.05, as in
    the public code, whose ``train.lr`` is 0.0005."""


class FedRotLoRASettings(Section):
    """FedRot-LoRA."""

    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How far clients' adapters are turned towards the received one before they are averaged; 0 is FedIT. Useful: 0.5
    to 1."""


class FedSVDSettings(Section):
    """FedSVD."""

    every: Positive = 1
    """Rounds from one SVD to the next, which sets A anew; more than there are is FFA-LoRA. Useful: 1 to 5."""


class RavanSettings(Section):
    """Ravan."""

    heads: Annotated[int, Field(ge=1, le=1000)] = 4
    """Cores in every module, each of rank ``lora.r`` between frozen factors of its own. Useful: 2 to 8; as many numbers
    travel up as under ``fedit`` with rank r for ``lora.r`` = sqrt(2 width r / heads)."""


class SLoRASettings(Section):
    """SLoRA."""

    stage: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of the rounds, rounded up, in which sparse differences to the frozen weights are trained, before A and B
    are; 0 is FedIT. Useful: 0.1 to 0.5."""
    density: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the weights of each adapted module that has such a difference. Useful: 0.001 to 0.1."""


class FedTreeLoRASettings(Section):
    """FedTreeLoRA."""

    window: Positive = 2
    """K: a layer has at most K - 1 groups more than the one before."""
    tau: Annotated[float, Field(ge=-1, le=1)] = 0.05
    """The score a cut must beat to split the first time."""
    outside: bool = True
    """Whether the frozen mean of the other groups is mixed in; false is the grouping alone."""
    distance: TreeDistance = "frobenius"
    """The distance between the B matrices of two clients."""
