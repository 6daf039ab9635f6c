"""The settings of methods, with a section for each method that has any."""

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
    """The server's optimiser (FedOpt), for every method that averages A and B; heads are averaged without it."""

    rule: ServerRule = "none"
    """``none``: clients get the mean; otherwise the server steps towards the mean, by ``momentum`` (FedAvgM),
    ``adagrad``, ``adam`` or ``yogi``. Baselines without a mean of A and B run without it."""
    lr: Annotated[float, Field(gt=0, le=100)] | None = None
    """Learning rate of the server; None: 1 - ``momentum`` under ``momentum``, 0.01 under the others. Useful: 0.1 to 1
    under ``momentum``; 0.001 to 0.1 under the others, a few times the change of a weight in a round."""
    momentum: Fraction = 0.9
    """Weight of earlier steps in the direction of a step (beta_1). Useful: 0 to 0.95."""
    beta2: Fraction = 0.99
    """Weight of earlier steps in the squares by which ``adam`` and ``yogi`` divide (beta_2)."""
    tau: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Added to the root of those squares; with a smaller value, the steps of all weights become more equal. Useful:
    1e-5 to 0.1."""


class FedLeaseSettings(Section):
    """Variants of FedLEASE, for ablations and trials; the defaults are the paper's method."""

    grouping: GroupingName = "clusters"
    """Groups of clients: ``clusters`` of distances (paper); ``similarity``: corrected similarities of halves (our own,
    needs ``halves``); ``clients``: one expert per client; ``random``: ``num_experts`` random groups; ``given``."""
    halves: bool = False
    """Whether warm-ups separate what each half of a client's rows has added to B, which shows how much of B is the
    client's task. Clients then make about equally many steps. Our own."""
    num_experts: Positive | None = None
    """Fixed number of experts M; None lets the silhouettes choose."""
    assignment: dict[str, int] | None = None
    """Client -> group, for ``grouping: given``."""
    signal: Signal = "B"
    """The matrices of the warm-ups that are compared."""
    clustering: Clustering = "hierarchical"
    """Algorithm that groups clients by their distances."""
    expert_start: ExpertStart = "cluster"
    """Start of round 1: the ``cluster``'s mean, or the ``client``'s own warm-up."""
    routing: Routing = "top-m"
    """``own``: every client uses only its own expert."""
    top_k: Positive | None = None
    """Number of router slots kept; None keeps M, the adaptive selection."""
    renormalise: bool = True
    """Whether the weights of kept slots sum to 1."""
    router: RouterOwner = "cluster"
    """Routers are averaged in the ``cluster``, or kept by the ``client``."""
    router_start: RouterStart = "random"
    """Routers start at random values (released code), or with nearly all weight on the ``own`` expert (our own,
    experimental)."""
    average: Average = "factors"
    """The mean of a cluster: of A and of B (``factors``); of their ``product`` (our own, experimental); without the
    largest and smallest values (``trimmed``); or with one vote per client, the ``median`` of every value or the
    ``geometric-median``. A few wrong or hostile clients cannot control the last three."""
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Share of a cluster's weight that ``average: trimmed`` cuts off at each end of every value."""
    unlike: Unlike = "keep_out"
    """Treatment of a late client whose warm-up is farther from every expert than the expert's own clients are: it is
    kept out and reported, or placed with the nearest expert anyway (``place``)."""
    admitted: tuple[str, ...] = ()
    """Late clients that are always placed; may be changed when a run is resumed over Flower."""
    reallocate: Positive | None = None
    """Number of rounds after which clients are grouped again, repeatedly; with ``halves``, only clients that had not
    learnt their task. None groups once. Our own, experimental."""
    unsure: Unsure = "alone"
    """A client that has not learnt its task in the warm-up stays ``alone``, or compares the ``loss`` of the other
    experts on its rows in every round, and joins one that is clearly better than its own warm-up. Our own; needs
    ``grouping: similarity`` and ``routing: own``. Under ``fedlease_plus`` with other values of these, and under
    ``privacy.epsilon``, clients do not compare."""


class FedLeasePlusSettings(FedLeaseSettings):
    """FedLEASE+: the settings of ``fedlease``, with other defaults."""

    halves: bool = PLUS["halves"]
    grouping: GroupingName = PLUS["grouping"]
    signal: Signal = PLUS["signal"]
    average: Average = PLUS["average"]
    routing: Routing = PLUS["routing"]
    unsure: Unsure = PLUS["unsure"]


class HetLoRASettings(Section):
    """HetLoRA."""

    gamma: Annotated[float, Field(gt=0, le=1)] = 0.99
    """A client's directions after the first gamma x rank are pruned in the first round in which training makes them
    smaller; at least one is kept. 1 never prunes. Useful: 0.5 to 1; near 1, one direction at a time."""
    penalty: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    """Weight of the penalty on those directions in the local loss. Useful: 0 to 0.1."""


class HiLoRASettings(Section):
    """HiLoRA."""

    root: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Share of the rounds in which the adapter of all clients is trained, but at least the rounds that replace a
    warm-up."""
    cluster: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Share of the rounds in which the clusters' adapters are trained; clients' own are trained in the other rounds."""
    apart: Annotated[float, Field(ge=0, le=1e6)] = 0.1
    """Weight of the penalty that keeps each tier's B orthogonal to those above (gamma). Useful: 0 to 1."""
    smoothing: Fraction = 0.9
    """Weight of earlier rounds in the mean B by which clients are clustered."""


class IFCASettings(Section):
    """IFCA."""

    num_candidates: Positive = 4
    """K, the number of candidate adapters."""
    candidate_start: CandidateStart = "groups"
    """Initial candidates: mean warm-ups of random ``groups`` of clients, or warm-ups of K random ``clients``."""


class FedDPASettings(Section):
    """FedDPA."""

    blend: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Largest weight of the local adapter."""
    num_anchors: Positive = 5
    """Number of train rows with which an input is compared."""


class FedProxSettings(Section):
    """FedProx."""

    mu: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    """Weight of the pull towards the received weights; 0 is FedIT. Useful: 0.001 to 1."""


class FedMomentumSettings(Section):
    """FedMomentum."""

    energy: Annotated[float, Field(gt=0, le=1)] = 0.9999
    """Share of the squared singular values of each round's mean that is kept, the largest first; those beyond the
    adapter's rank are added to the frozen weights. 1 loses nothing. Useful: 0.99 to 1."""


class FedSBSettings(Section):
    """Fed-SB."""

    start: FactorStart = "adapters"
    """Source of the frozen factors: the mean of the clients' warm-ups of A and B (``adapters``), or, as in LoRA-SB, of
    all ``weights`` of the adapted modules, which are then sent once completely."""


class FedRoRASettings(Section):
    """FedRoRA."""

    gain: Annotated[float, Field(gt=0, le=1e4)] = 100.0
    """Learning rate of the diagonal, as a multiple of that of A and B. Useful: ``train.lr`` x ``gain`` of about 0.05,
    as in the public code with ``train.lr`` = 0.0005."""


class FedRotLoRASettings(Section):
    """FedRot-LoRA."""

    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Strength of the rotation of clients' adapters towards the received one before averaging; 0 is FedIT. Useful: 0.5
    to 1."""


class FedSVDSettings(Section):
    """FedSVD."""

    every: Positive = 1
    """Number of rounds between two SVDs, which renew A; more than all rounds is FFA-LoRA. Useful: 1 to 5."""


class RavanSettings(Section):
    """Ravan."""

    heads: Annotated[int, Field(ge=1, le=1000)] = 4
    """Number of cores in every module, each of rank ``lora.r`` with its own frozen factors. Useful: 2 to 8. With
    ``lora.r`` = sqrt(2 width r / heads), uploads are as large as under ``fedit`` with rank r."""


class SLoRASettings(Section):
    """SLoRA."""

    stage: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of the rounds, rounded up, in which sparse differences to the frozen weights are trained, before A and B
    are; 0 is FedIT. Useful: 0.1 to 0.5."""
    density: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the weights of each adapted module that have such a difference. Useful: 0.001 to 0.1."""


class FedTreeLoRASettings(Section):
    """FedTreeLoRA."""

    window: Positive = 2
    """K: a layer has at most K - 1 groups more than the one before."""
    tau: Annotated[float, Field(ge=-1, le=1)] = 0.05
    """Score that the first split must exceed."""
    outside: bool = True
    """Whether the frozen mean of the other groups is mixed in; false uses only the grouping."""
    distance: TreeDistance = "frobenius"
    """The distance between the B matrices of two clients."""
