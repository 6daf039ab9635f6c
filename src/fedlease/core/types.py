"""The words of the algorithm as frozen dataclasses: what methods and engines hand to each other.

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

Mixer = Literal[
    "none", "sum", "core", "heads", "diagonal", "magnitude", "sparse", "top_m", "softmax", "scalar", "instance"
]


@serialisable
@dataclass(frozen=True)
class AdapterSpec:
    """The shape of an adapter, without its values.

    Attributes:
        r: LoRA rank, at least 1.
        alpha: LoRA alpha; the update is scaled by alpha / r.
        dropout: LoRA dropout in [0, 1), on the input of A; routing sees the input before it.
        target_modules: full dotted paths of the adapted modules, sorted.
        num_experts: M, at least 1.
        own: the client's own expert, in 0 .. M - 1.
        mixer: how experts are combined: ``none`` (the only expert, M = 1), ``sum`` (all of them, weight 1 each),
            ``core`` (the only one, B G A), ``heads`` (all of them, s B H A; each row of G is s and H, row by row),
            ``magnitude`` (the only one, B diag(G) A), ``diagonal`` (the same with columns of B and rows of A scaled to
            length 1), ``sparse`` (the only one, and beside it G as sparse differences to the frozen weights, see
            ``core/sparse``), ``top_m`` (paper, adaptive top-M), ``softmax`` (all of them, weights softmax(G x)),
            ``scalar`` (two, weights s and 1 - s for every token, with s = sigmoid(G)) or ``instance`` (two, one weight
            per input text, see ``blend``).
        top_k: slots kept by ``top_m``; None keeps M.
        renormalise: whether the kept weights are scaled to sum to 1.
        blend: under ``instance`` expert 1 weighs blend x the similarity of the input to the client's train rows, in
            training blend itself, and expert 0 the rest to 1.
        anchors: train rows that this similarity is taken to.
        density: under ``sparse`` the share of a module's weights that have a difference, in (0, 1].
        places: seed that their positions are drawn from, below 2^62.
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
        """Whether experts are weighed against each other, so that one alone is a model too."""
        return self.num_experts > 1 and self.mixer not in ("sum", "heads")

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any field."""
        return _fingerprint(self)


CLEARLY = 0.95
"""A candidate is clearly better than the one that is a reference when its loss is below so much of that one's."""


@lru_cache(2**10)
def _fingerprint(spec: AdapterSpec) -> str:
    return hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode()).hexdigest()[:16]


@serialisable
@dataclass(frozen=True)
class ClientModel:
    """An adapter with its values, as a client trains or is evaluated with it.

    Attributes:
        spec: its shape.
        tensors: every tensor of the adapter, and of the head where a head policy adds one.
        candidates: alternatives to ``tensors``; the client takes the one with the lowest loss on its train rows.
        reference: whether the first candidate stands for ``tensors``, which are kept unless another is clearly better
            than it.
        kept: names of tensors that a client keeps as it has received them from one request to the next, as the methods'
            papers have it: one travels only to clients that do not have it as it is.
        warmed: whether the client lays its own warm-up over it, of which the server has a sketch alone.
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
            losses: of every candidate, on the client's train rows.
        """
        best = min(losses)
        return 0 if self.reference and best > CLEARLY * losses[0] else losses.index(best)

    def chosen(self, choice: int | None) -> Tensors:
        """The tensors that a choice lays over ``tensors``."""
        return {} if choice is None or (self.reference and not choice) else self.candidates[choice]

    def names(self, kinds: str, expert: int = 0) -> frozenset[str]:
        """The names of some kinds of tensors (letters): A and B of one expert, and G, which belongs to all."""
        wanted = {(kind, None if kind == "G" else expert) for kind in kinds}
        return frozenset(name for name in self.tensors if TensorName.parse(name)[1:] in wanted)


@serialisable
@dataclass(frozen=True)
class Stage:
    """One pass of local training with a fresh optimiser.

    Attributes:
        trainable: names of the tensors that learn.
        epochs: passes over the client's train rows, at least 1.
        experts: combine just these experts, weight 1 each; None uses the mixer of the spec.
    """

    trainable: frozenset[str]
    epochs: int
    experts: tuple[int, ...] | None = None


@serialisable
@dataclass(frozen=True)
class ClientTask:
    """The task of one client in one round.

    Attributes:
        phase: ``"warmup"`` (every client is asked once) or a name of the method's choice (clients are sampled).
        round: 0 for warm-up, then 1, 2, ...
        model: what the client starts from.
        stages: trained one after another; none where what the client has kept of its warm-up goes back as it is.
        upload: names that go back to the server. Trained and not uploaded means private, and so is an anchor.
        halves: whether batches are of one half of the client's rows each, in turn, from the received model and its
            initial head. B is uploaded in two parts, as experts 0 and 1: what either half has added to it.
        term: what is added to the loss of every batch; the loss that is reported is without it.
        gradients: whether the mean gradients of uploaded A, B and G over all batches go back, too: of the loss without
            the term, before clipping. Under plain SGD without a term that is (w0 - w) / (steps x learning rate).
        sketch: what goes back instead of the uploaded A and B, which then stay with the client; None: they do.
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
        """The names that any stage trains."""
        return frozenset().union(*(stage.trainable for stage in self.stages))

    @property
    def withheld(self) -> frozenset[str]:
        """Trained and never uploaded, a sketched warm-up apart, which a later task asks for."""
        return self.trainable - self.upload

    @property
    def private(self) -> frozenset[str]:
        """Trained and not uploaded, or sketched alone: these stay with the client."""
        return self.withheld if self.sketch is None else self.trainable - head_names(self.upload)

    @property
    def gradient_names(self) -> dict[str, str]:
        """Tensor whose mean gradient goes back -> the name of that; {} where none does."""
        names = sorted(self.upload - head_names(self.upload)) if self.gradients else ()
        return {name: str(TensorName.parse(name).gradient) for name in names}

    @property
    def expected(self) -> dict[str, Tensor]:
        """Name of every tensor that goes back -> one of the same shape and type."""
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
        client: who.
        phase: the task's phase.
        round: the task's round.
        num_examples: n_i, train rows of the client.
        tensors: exactly what the task has as ``expected``.
        choice: index of the chosen candidate, or None.
        metrics: training figures, ``loss`` among them.
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
        silhouettes: k -> mean silhouette S(k), for every k that could be scored; {} when N < 3.
        distances, clients: (N, N) float64, in the order of the clients, which are sorted; None of very many clients.
        warnings: plain sentences: singletons, nothing separates, modules without direction.
        reliability: client -> how much of its warm-up is its task, see ``core/reliability``; {} without halves.
        corrected, corrected_error: similarities corrected for it, their standard errors, (N, N), NaN where unknown.
        common: what unlike tasks have in common at most, see ``core/merging``; None without halves.
        evidence: client -> log odds of its group against the best other place, see ``core/merging``.
        unsure: clients of whom it was not known who has their task when it was decided.
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
