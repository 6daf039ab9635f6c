"""The terms of the algorithm as frozen dataclasses, which methods and transports pass to each other.

Tensors are addressed by names that do not depend on PEFT, see :mod:`fedlease.core.tensor_names`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Literal

from torch import Tensor

from fedlease.core.budget import Budget
from fedlease.core.local_term import LocalTerm
from fedlease.core.names import ClientId
from fedlease.core.serialisable import serialisable
from fedlease.core.sketch import Sketch
from fedlease.core.tensor_names import ANCHOR, HEAD, TensorName, Tensors, head_names, second_half

__all__ = [
    "ANCHOR",
    "HEAD",
    "AdapterSpec",
    "Allocation",
    "Budget",
    "ClientId",
    "ClientModel",
    "ClientTask",
    "ClientUpdate",
    "LocalTerm",
    "Mixer",
    "Sketch",
    "Stage",
    "TensorName",
    "Tensors",
    "head_names",
    "second_half",
]

Mixer = Literal["none", "sum", "core", "heads", "diagonal", "sparse", "top_m", "softmax", "scalar", "instance"]


@serialisable
@dataclass(frozen=True)
class AdapterSpec:
    """The shape of an adapter, without its values.

    Attributes:
        r: LoRA rank, at least 1.
        alpha: LoRA alpha; the update is scaled by alpha / r.
        dropout: LoRA dropout in [0, 1), on the input of A; the router sees the input without dropout.
        target_modules: full dotted paths of the adapted modules, sorted.
        num_experts: M, at least 1.
        own: the client's own expert, in 0 .. M - 1.
        mixer: how experts are combined. One expert: ``none``; ``core`` (B G A); ``diagonal``
            (B diag(G) A, with columns of B and rows of A scaled to length 1); ``sparse`` (B A plus sparse
            differences G to the frozen weights, see ``core/sparse``). Any number: ``sum`` (weight 1 each); ``heads``
            (s B H A, where each row of G is s followed by H, row by row); ``top_m`` (paper, adaptive top-M);
            ``softmax`` (weights softmax(G x)). Two experts: ``scalar`` (weights s and 1 - s for every token, with
            s = sigmoid(G)); ``instance`` (one weight per input text, see ``blend``).
        top_k: slots kept by ``top_m``; None keeps M.
        renormalise: whether the kept weights are scaled to sum 1.
        blend: under ``instance``, the weight of expert 1 is ``blend`` times the similarity of the input to the client's
            train rows, and ``blend`` in training; expert 0 has the rest to 1.
        anchors: number of train rows that enter this similarity.
        density: under ``sparse``, the share of a module's weights that have a difference, in (0, 1].
        places: under ``sparse``, the seed of their positions, below 2^62.
    """

    r: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]
    num_experts: int = 1
    own: int = 0
    mixer: Mixer = "none"
    top_k: int | None = None
    renormalise: bool = True
    blend: float = 0.5
    anchors: int = 0
    density: float = 1.0
    places: int = 0

    @property
    def routed(self) -> bool:
        """Whether experts have weights relative to each other, so that each is also a model by itself."""
        return self.num_experts > 1 and self.mixer not in ("sum", "heads")

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any field."""
        return _fingerprint(self)


CLEARLY = 0.95
"""Share of the reference's loss below which a candidate is clearly better."""


@lru_cache(2**10)
def _fingerprint(spec: AdapterSpec) -> str:
    return hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode()).hexdigest()[:16]


@serialisable
@dataclass(frozen=True)
class ClientModel:
    """An adapter with its values, which a client trains or scores.

    Attributes:
        spec: shape of the adapter.
        tensors: every tensor of the adapter, and of the head where a head policy adds one.
        candidates: tensors that may replace those in ``tensors``; the client takes the candidate with the lowest loss
            on its train rows.
        reference: whether the first candidate only represents ``tensors``, which are kept unless another candidate is
            clearly better than it.
        kept: names of tensors that a client keeps unchanged between requests, as the methods' papers assume; they are
            sent only to clients that do not have them yet.
        warmed: whether the client replaces tensors by its own warm-up, of which the server has only a sketch.
    """

    spec: AdapterSpec
    tensors: Tensors
    candidates: tuple[Tensors, ...] = ()
    reference: bool = False
    kept: frozenset[str] = frozenset()
    warmed: bool = False

    def choose(self, losses: Sequence[float]) -> int:
        """The index of the candidate that a client takes.

        Args:
            losses: mean loss of every candidate on the client's train rows.
        """
        best = min(losses)
        return 0 if self.reference and best > CLEARLY * losses[0] else losses.index(best)

    def chosen(self, choice: int | None) -> Tensors:
        """The tensors that a choice replaces in ``tensors``; {} if it replaces none."""
        return {} if choice is None or (self.reference and not choice) else self.candidates[choice]

    def names(self, kinds: str, expert: int = 0) -> frozenset[str]:
        """The names of tensors of some kinds.

        Args:
            kinds: letters among A, B and G.
            expert: whose A and B; G belongs to all experts.
        """
        wanted = {(kind, None if kind == "G" else expert) for kind in kinds}
        return frozenset(name for name in self.tensors if TensorName.parse(name)[1:] in wanted)


@serialisable
@dataclass(frozen=True)
class Stage:
    """A part of local training with an optimiser of its own.

    Attributes:
        trainable: names of the tensors that are trained.
        epochs: passes over the client's train rows, at least 1.
        experts: experts that are combined with weight 1 each; None uses the mixer of the spec.
    """

    trainable: frozenset[str]
    epochs: int
    experts: tuple[int, ...] | None = None


@serialisable
@dataclass(frozen=True)
class ClientTask:
    """The task of one client in one round.

    Attributes:
        phase: ``"warmup"`` (every client is asked once) or a name that the method chooses (clients are sampled).
        round: 0 for the warm-up, then 1, 2, ...
        model: starting point of the client's training.
        stages: run one after another; without any, the client uploads what it has kept of its warm-up.
        upload: names of the tensors that are uploaded. Trained tensors that are not uploaded are private, and so is an
            anchor.
        halves: whether batches alternate between two halves of the client's rows, starting from the received model and
            its initial head. The client then uploads what each half has added to B, as experts 0 and 1.
        term: added to the loss of every batch, but not to the reported loss.
        gradients: whether the mean gradients of uploaded A, B and G over all batches are uploaded too: of the loss
            without the term, before clipping. Under plain SGD without a term they are
            (w0 - w) / (steps x learning rate).
        sketch: rule of the sketches that are uploaded instead of A and B, which stay with the client; None uploads A
            and B.
    """

    phase: str
    round: int
    model: ClientModel
    stages: tuple[Stage, ...]
    upload: frozenset[str]
    halves: bool = False
    term: LocalTerm | None = None
    gradients: bool = False
    sketch: Sketch | None = None

    @property
    def trainable(self) -> frozenset[str]:
        """Names of the tensors that any stage trains."""
        return frozenset().union(*(stage.trainable for stage in self.stages))

    @property
    def withheld(self) -> frozenset[str]:
        """Names of trained tensors that are never uploaded; a sketched warm-up may be, for a later task."""
        return self.trainable - self.upload

    @property
    def private(self) -> frozenset[str]:
        """Names of trained tensors that this task does not upload, or uploads only as sketches."""
        return self.withheld if self.sketch is None else self.trainable - head_names(self.upload)

    @property
    def gradient_names(self) -> dict[str, str]:
        """Name of a tensor -> name of its mean gradient, for every gradient that is uploaded."""
        names = sorted(self.upload - head_names(self.upload)) if self.gradients else ()
        return {name: str(TensorName.parse(name).gradient) for name in names}

    @property
    def expected(self) -> dict[str, Tensor]:
        """Name of every tensor that is uploaded -> a tensor of the same shape and dtype."""
        like = {name: self.model.tensors[name] for name in sorted(self.upload)}
        if self.sketch is not None:
            like = {**{name: like[name] for name in sorted(head_names(like))}, **self.sketch.like(like)}
        gradients = {gradient: like[name] for name, gradient in self.gradient_names.items()}
        return {**like, **gradients, **second_half(like)} if self.halves else {**like, **gradients}


@serialisable
@dataclass(frozen=True)
class ClientUpdate:
    """The update of one client.

    Attributes:
        client: id of the client.
        phase: of the task.
        round: of the task.
        num_examples: n_i, number of the client's train rows.
        tensors: with the names, shapes and dtypes of the task's ``expected``.
        choice: index of the chosen candidate, or None.
        metrics: figures of the training, among them ``loss``.
    """

    client: ClientId
    phase: str
    round: int
    num_examples: int
    tensors: Tensors
    choice: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@serialisable
@dataclass(frozen=True)
class Allocation:
    """The assignment of clients to experts, with its evidence (paper, phase 1).

    Attributes:
        num_experts: M.
        assignment: client -> expert in 0 .. M - 1; experts are numbered by their smallest client.
        silhouettes: k -> mean silhouette S(k), for every k that could be scored; {} if N < 3.
        distances: (N, N) float64, in the order of ``clients``; None for very many clients.
        clients: sorted.
        warnings: sentences about experts with one client, clients that do not separate, and modules without direction.
        reliability: client -> share of its task in its warm-up, see ``core/reliability``; {} without halves.
        corrected, corrected_error: similarities corrected for reliability and their standard errors, (N, N), NaN where
            unknown.
        common: the most that unlike tasks have in common, see ``core/merging``; None without halves.
        evidence: client -> log odds of its group against the best alternative, see ``core/merging``.
        unsure: clients for which it was not known at the time of the allocation who has their task.
    """

    num_experts: int
    assignment: dict[ClientId, int]
    silhouettes: dict[int, float]
    distances: Tensor | None
    clients: list[ClientId]
    warnings: tuple[str, ...] = ()
    reliability: Mapping[ClientId, float] = field(default_factory=dict)
    corrected: Tensor | None = None
    corrected_error: Tensor | None = None
    common: float | None = None
    evidence: Mapping[ClientId, float] = field(default_factory=dict)
    unsure: tuple[ClientId, ...] = ()

    def members(self, expert: int) -> list[ClientId]:
        """The clients of one expert, sorted."""
        return [client for client in self.clients if self.assignment[client] == expert]
