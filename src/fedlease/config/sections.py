"""The common base of all groups of settings, and the groups about model, training and clients."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from fedlease.config.choices import ClassWeights, Quantisation, Template
from fedlease.core.choices import Against, LrSchedule, StopMetric

__all__ = [
    "DEFAULT",
    "BaseSettings",
    "BoundsSettings",
    "CountOrAuto",
    "EarlyStoppingSettings",
    "FlowerSettings",
    "Fraction",
    "GenerationSettings",
    "LoraSettings",
    "MultilabelSettings",
    "Positive",
    "ScheduleSettings",
    "Section",
    "TrainSettings",
    "WarmupSettings",
    "ranks_differ",
]

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]

DEFAULT = "default"
"""The key of ``lora.r`` for all clients that it does not name."""


class Section(BaseModel):
    """A group of settings: frozen, without unknown keys, described by the texts under its fields."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Keeps true from being read as the number 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise PydanticCustomError("not_a_switch", "must not be true or false")
        return value


def _not_a_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_switch", "must not be true or false")
    return value


Rank = Annotated[Positive, BeforeValidator(_not_a_switch)]
RANK: TypeAdapter[int] = TypeAdapter(Rank)
RANKS: TypeAdapter[dict[str, int]] = TypeAdapter(Annotated[dict[str, Rank], Field(min_length=1)])


def _count_or_auto(value: Any) -> Any:
    """One sentence for what would else be one fault per member of the union."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise PydanticCustomError("count_or_auto", "must be auto or a whole number from 1")


CountOrAuto = Annotated[Positive | Literal["auto"], BeforeValidator(_count_or_auto)]
"""A number, or what the machine has room for."""


def _rank_or_ranks(value: Any) -> Any:
    """Checks one form by itself, so that a fault names the client and not the members of the union."""
    if isinstance(value, Mapping):
        # YAML reads a client called 7 as a number.
        return RANKS.validate_python({str(c) if type(c) is int else c: rank for c, rank in value.items()})
    return RANK.validate_python(value)


def ranks_differ(r: Any) -> bool:
    """Whether a value of ``lora.r``, checked or not, names more than one rank."""
    return isinstance(r, Mapping) and len({str(rank) for rank in r.values()}) > 1


class LoraSettings(Section):
    """The adapter."""

    r: Annotated[Positive | dict[str, Positive], BeforeValidator(_rank_or_ranks)] = 8
    """Rank of every client; or client -> rank, with the rank of all others under ``default``. Unequal ranks need a
    method that averages products (``flora``, ``flexlora``, ``fedlease-plus``, or ``fedlease`` with ``signal: BA`` and
    ``average: product``), pads (``hetlora``), or averages nothing (``local``)."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """The update is scaled by alpha / r, r being the largest rank, for clients of every rank."""
    dropout: Fraction = 0.0
    """Dropout on the input of A."""
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Name endings of the adapted modules; None: the attention query and value projections."""

    @property
    def largest(self) -> int:
        """R, the largest rank that is named: that of experts and of the common start."""
        return self.r if isinstance(self.r, int) else max(self.r.values())

    @property
    def smallest(self) -> int:
        """The smallest rank that is named."""
        return self.r if isinstance(self.r, int) else min(self.r.values())

    @property
    def named(self) -> Mapping[str, int]:
        """Client -> rank of those that are named."""
        return {} if isinstance(self.r, int) else {client: r for client, r in self.r.items() if client != DEFAULT}

    @property
    def ranks(self) -> Mapping[str, int]:
        """Client -> rank of those that are named; empty where all clients have one rank."""
        return self.named if ranks_differ(self.r) else {}

    @property
    def default(self) -> int:
        """The rank of a client that is not named."""
        return self.r.get(DEFAULT, self.largest) if isinstance(self.r, dict) else self.r

    def of(self, client: str) -> int:
        """A client's own rank."""
        return self.named.get(client, self.default)

    def fault_of(self, client: str) -> str:
        """Why a client has no rank; empty where it has one."""
        if isinstance(self.r, int) or {client, DEFAULT} & {*self.r}:
            return ""
        return f"lora.r: names no rank for client {client!r}; add it, or {DEFAULT} for all others"

    @property
    def words(self) -> str:
        """The rank, or the smallest and the largest."""
        return f"{self.smallest} to {self.largest}, by client" if self.ranks else str(self.largest)


class WarmupSettings(Section):
    """Phase 1."""

    epochs: Positive = 2
    """E, passes over each client's rows before allocation."""
    as_rounds: bool = False
    """Whether AdamW, and the learning rate's schedule, begin anew after every ``train.local_epochs`` of the warm-up, as
    in rounds (released code)."""


class TrainSettings(Section):
    """Local training; a fresh AdamW for every local task."""

    lr: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """Learning rate."""
    lr_schedule: LrSchedule = "constant"
    """``linear``: the rate falls to 0 over the steps of every local task, and begins anew with the next (released
    code)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's."""
    batch_size: Positive = 16
    """Rows per step."""
    local_epochs: Positive = 1
    """Passes per round."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest gradient norm; None does not clip."""
    base_dropout: bool = False
    """Whether the frozen base keeps its own dropout while training; without it a CPU step is faster."""
    class_weights: ClassWeights = "none"
    """``balanced``: in a client's loss every label of its train rows weighs the same, however few rows have it: a row
    weighs n / (labels x rows of its label). With any number of labels per row, having a label weighs as much as not
    having it. Regression and generation have no classes."""
    gradient_checkpointing: bool = False
    """Whether activations are computed anew in the backward pass: less memory, about a third more time."""


class ScheduleSettings(Section):
    """When a step ends."""

    until: str = "all"
    """``all``: when every client has replied; ``first``: a round ends after ``replies`` usable updates; ``deadline``:
    after ``seconds``. The warm-up waits for everyone."""
    replies: Positive = 1
    """Usable updates that close a round under ``first``."""
    seconds: Annotated[float, Field(gt=0, le=604_800)] | None = None
    """Seconds that a client has for a round under ``deadline``; in one process those of its own work."""

    def values(self) -> tuple[str, int, float | None]:
        """All of them, in order."""
        return self.until, self.replies, self.seconds


class EarlyStoppingSettings(Section):
    """Ending a method when rounds no longer help on the clients' validation rows."""

    patience: Positive | None = None
    """Rounds without a better value after which a method ends and its best round is kept; None makes every round and
    keeps the last. It needs validation rows (files, or ``data.valid_fraction``) and clients in one process."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """How much better counts, in the metric's own unit: 0.01 is one point of a score."""
    metric: StopMetric = "score"
    """``score``: the headline metric; ``loss``, which also moves where few rows leave the score as it is. The plain
    mean over the clients that have validation rows."""


class BoundsSettings(Section):
    """The server's bounds on every update beyond its form. Honest training respects them; an update that does not is
    refused, and its client is named as a suspect."""

    guarded: bool = False
    """Whether one liar in a cluster of three or more is to be outvoted, in one word: ``fedlease.average`` (and that of
    ``fedlease_plus``) is ``median`` and ``against`` is ``refuse``, unless they are stated."""
    norm: Annotated[float, Field(ge=1)] | None = 10.0
    """Largest length of what an update changes, as a multiple of the median of its cluster and of all clients, by
    itself and per optimiser step; steps of fewer than three clients have no median. Nor is it compared with a median
    below what the client's own steps make without a direction, lr sqrt(steps x values): clients that have fitted their
    few rows hardly move. None: any length."""
    step: Annotated[float, Field(gt=0)] | None = 8.0
    """Most that one value changes in an optimiser step, in learning rates; AdamW cannot do more than 7.3. For clients
    that train with something else, None: as far as they like."""
    copies: bool = True
    """Whether an update is refused that is one sent before, a copy of a foreign expert, or one and the same for both
    halves of a client's rows. Clients that send the same in one step are named."""
    against: Against = "name"
    """An update that points against the others of its cluster, three or more clients whose own agree with each other,
    or a warm-up more than twice as long as the median, against more that agree than go its way: its client is named as
    a suspect, or the update refused. Of a client whose rows contradict the others' it is honest."""
    rows: Positive = 1_000_000
    """Train rows that a client on another machine may state; a node that states more is turned away."""


class FlowerSettings(Section):
    """Clients on other machines, over Flower; without effect where all are in one process."""

    min_nodes: Positive = 2
    """Clients that must have reported before the run begins."""
    wait: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that the server waits for them, and that a new node has to say who it is."""
    deadline: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds that a step waits for answers; whoever is later is left out of it."""
    max_labels: Positive = 1000
    """Labels that a client may have; one that says it has more is turned away."""
    client_keys: Path | None = None
    """Folder on the server with a public key for every client, ``ID.pub``: who takes part under an id must have its
    key. None: any key, but a client that comes back within a run must have the one that it had. It is not sent to
    nodes."""


def _switch_or_auto(value: Any) -> Any:
    """One sentence for what would else be one fault per member of the union."""
    if value == "auto" or isinstance(value, bool):
        return value
    raise PydanticCustomError("switch_or_auto", "must be true, false or auto")


class BaseSettings(Section):
    """The frozen base in memory."""

    quantisation: Quantisation = "none"
    """``int8`` or ``nf4`` (4 bits) packs its linear layers, by bitsandbytes; adapters stay in float32."""
    skip_unread: Annotated[bool | Literal["auto"], BeforeValidator(_switch_or_auto)] = "auto"
    """Whether a classifier that reads the first token alone (BERT, RoBERTa and the like) computes its last layer,
    behind the attention, for that token alone: the same up to rounding, in less time. ``auto``: where that is so;
    ``true`` refuses other models."""


class MultilabelSettings(Section):
    """Any number of labels per text, for ``task: multilabel``."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which on a label is predicted. Labels that are never predicted may need a lower one, or
    ``train.class_weights: balanced``."""


class GenerationSettings(Section):
    """Prompts and answers, for ``task: generation``."""

    template: Template = "auto"
    """``chat``: the tokenizer's own; ``plain``: lines that begin with ``User:`` and ``Assistant:``; ``auto``: the
    tokenizer's where it has one."""
    max_new_tokens: Positive = 64
    """Longest answer that is generated."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end an answer, beside the model's end token; they are cut off."""
    batch_size: Positive = 16
    """Answers generated together."""
    score_rounds: bool = True
    """Whether every round is scored by generating answers; false leaves rounds without a score, which saves most of the
    time, and scores the result only."""
    samples: Annotated[int, Field(ge=0)] = 3
    """Test rows per client whose prompt, reference and answers are written to the run folder and the report."""
