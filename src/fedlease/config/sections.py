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
"""The key of ``lora.r`` with the rank of all clients that are not named."""


class Section(BaseModel):
    """A group of settings: frozen, without unknown keys, with a description under every field."""

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
    """Checks the value in one step, since pydantic would report a fault for every member of the union."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise PydanticCustomError("count_or_auto", "must be auto or a whole number from 1")


CountOrAuto = Annotated[Positive | Literal["auto"], BeforeValidator(_count_or_auto)]
"""A number, or ``auto`` for the number that suits the machine."""


def _rank_or_ranks(value: Any) -> Any:
    """Checks the form that the value has, so that a fault names the client rather than members of the union."""
    if isinstance(value, Mapping):  # YAML reads a client named 7 as a number
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
    """The update is scaled by alpha / r, where r is the largest rank of any client."""
    dropout: Fraction = 0.0
    """Dropout on the input of A."""
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Name endings of the adapted modules; None: the attention query and value projections."""
    last_layers: Positive | None = None
    """Adapts only this many layers, the model's last ones; null: all. 1 needs least noise with ``privacy.epsilon``."""

    @property
    def largest(self) -> int:
        """R, the largest rank, which experts and the initial adapter have."""
        return self.r if isinstance(self.r, int) else max(self.r.values())

    @property
    def smallest(self) -> int:
        """The smallest rank."""
        return self.r if isinstance(self.r, int) else min(self.r.values())

    @property
    def named(self) -> Mapping[str, int]:
        """Client -> rank, for clients that are named."""
        return {} if isinstance(self.r, int) else {client: r for client, r in self.r.items() if client != DEFAULT}

    @property
    def ranks(self) -> Mapping[str, int]:
        """Client -> rank, for clients that are named; {} if all clients have one rank."""
        return self.named if ranks_differ(self.r) else {}

    @property
    def default(self) -> int:
        """The rank of a client that is not named."""
        return self.r.get(DEFAULT, self.largest) if isinstance(self.r, dict) else self.r

    def of(self, client: str) -> int:
        """A client's own rank."""
        return self.named.get(client, self.default)

    def fault_of(self, client: str) -> str:
        """The reason why a client has no rank; empty if it has one."""
        if isinstance(self.r, int) or {client, DEFAULT} & {*self.r}:
            return ""
        return f"lora.r: names no rank for client {client!r}; add it, or {DEFAULT} for all others"

    @property
    def words(self) -> str:
        """The rank, or the smallest and largest ranks, and the adapted layers if they are not all, in words."""
        rank = f"{self.smallest} to {self.largest}, by client" if self.ranks else str(self.largest)
        which = "layer" if self.last_layers == 1 else f"{self.last_layers} layers"
        return f"{rank} in the last {which}" if self.last_layers else rank


class WarmupSettings(Section):
    """Phase 1, the warm-up."""

    epochs: Positive = 2
    """E, passes over each client's rows before allocation."""
    as_rounds: bool = False
    """Whether AdamW and the learning rate's schedule restart after every ``train.local_epochs`` of the warm-up, as in
    rounds (released code)."""


class TrainSettings(Section):
    """Local training, with a new AdamW for every local task."""

    lr: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """Learning rate."""
    lr_schedule: LrSchedule = "constant"
    """``linear``: the rate falls to 0 over the steps of every local task, and restarts for the next (released
    code)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of AdamW."""
    batch_size: Positive = 16
    """Rows per step."""
    local_epochs: Positive = 1
    """Passes over a client's rows per round."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest gradient norm; None does not clip."""
    base_dropout: bool = False
    """Whether the frozen base uses its own dropout in training; steps on a CPU are faster without it."""
    class_weights: ClassWeights = "none"
    """``balanced``: in a client's loss, all labels of its train rows have the same weight, however rare they are: a row
    weighs n / (labels x rows of its label). For ``multilabel``, having a label weighs as much as not having it.
    Regression and generation have no classes."""
    gradient_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass, which needs less memory and about a third more time."""


class ScheduleSettings(Section):
    """The end of a round."""

    until: str = "all"
    """A round ends under ``all`` when every client has replied, under ``first`` after ``replies`` usable updates, and
    under ``deadline`` after ``seconds``. The warm-up waits for all clients."""
    replies: Positive = 1
    """Number of usable updates after which a round ends, under ``first``."""
    seconds: Annotated[float, Field(gt=0, le=604_800)] | None = None
    """Time that a client has for a round, under ``deadline``; in one process, the time of its own work."""

    def values(self) -> tuple[str, int, float | None]:
        """The values of all fields, in order."""
        return self.until, self.replies, self.seconds


class EarlyStoppingSettings(Section):
    """Early stopping, which ends a method when rounds no longer help on the clients' validation rows."""

    patience: Positive | None = None
    """Number of rounds without improvement after which a method ends and its best round is kept; None makes every round
    and keeps the last. It needs validation rows (files, or ``data.valid_fraction``) and clients in one process."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Smallest difference that counts as an improvement, in the unit of the metric: 0.01 is one point of a score."""
    metric: StopMetric = "score"
    """``score``: the headline metric; ``loss``: the loss, which also changes where few rows leave the score unchanged.
    Both are plain means over the clients with validation rows."""


class BoundsSettings(Section):
    """The server's checks of updates, beyond their form. Honest training passes them; an update that does not is
    refused, and its client is named as a suspect."""

    guarded: bool = False
    """Whether to outvote one lying client in every cluster of three or more: sets ``fedlease.average`` (and
    ``fedlease_plus.average``) to ``median`` and ``against`` to ``refuse``, unless they are stated."""
    norm: Annotated[float, Field(ge=1)] | None = 10.0
    """Largest length of an update's change, as a multiple of the median of its cluster and the median of all clients,
    both in total and per optimiser step; at least three clients are needed. A median below lr sqrt(steps x values), a
    random walk of the client's own steps, counts as that much, since clients that have fitted their few rows hardly
    change anything. None: any length."""
    step: Annotated[float, Field(gt=0)] | None = 8.0
    """Largest change of a value in an optimiser step, in learning rates; AdamW cannot exceed 7.3. None: any change, for
    clients that use another optimiser."""
    copies: bool = True
    """Whether to refuse an update that repeats an earlier one, copies another expert, or is the same for both halves of
    a client's rows. Clients that send the same update in one step are named."""
    against: Against = "name"
    """Whether to ``name`` a client as a suspect, or ``refuse`` its update, if the update points against at least two
    others of its cluster that agree with each other; a warm-up must also be more than twice as long as the median, and
    more warm-ups must oppose it than agree with it. Such an update is honest if the client's rows contradict the
    others'."""
    rows: Positive = 1_000_000
    """Most train rows that a client on another machine may announce; a node that announces more is turned away."""


class FlowerSettings(Section):
    """Clients on other machines, over Flower; without effect for clients in one process."""

    min_nodes: Positive = 2
    """Number of clients that must have reported before the run starts."""
    wait: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that the server waits for them, and that a new node has to identify itself."""
    deadline: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds that a step waits for answers; later answers are left out."""
    max_labels: Positive = 1000
    """Most labels of a client; a client that announces more is turned away."""
    client_keys: Path | None = None
    """Folder on the server with a public key for every client, ``ID.pub``, which a node must have to take part under
    that id. None: any key, but a client that returns within a run must have its previous key. Nodes do not get this
    setting."""


def _switch_or_auto(value: Any) -> Any:
    """Checks the value in one step, since pydantic would report a fault for every member of the union."""
    if value == "auto" or isinstance(value, bool):
        return value
    raise PydanticCustomError("switch_or_auto", "must be true, false or auto")


class BaseSettings(Section):
    """The frozen base model in memory."""

    quantisation: Quantisation = "none"
    """``int8`` or ``nf4`` (4 bits): quantises its linear layers with bitsandbytes; adapters stay in float32."""
    skip_unread: Annotated[bool | Literal["auto"], BeforeValidator(_switch_or_auto)] = "auto"
    """Whether a classifier that reads only the first token (BERT, RoBERTa and the like) computes the part of its last
    layer after the attention only for that token, which gives the same result up to rounding in less time. ``auto``:
    for such models; ``true`` refuses other models."""


class MultilabelSettings(Section):
    """Any number of labels per text, for ``task: multilabel``."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Smallest probability for which a label is predicted. Labels that are never predicted may need a lower one, or
    ``train.class_weights: balanced``."""


class GenerationSettings(Section):
    """Prompts and answers, for ``task: generation``."""

    template: Template = "auto"
    """``chat``: the tokenizer's own template; ``plain``: lines that start with ``User:`` and ``Assistant:``; ``auto``:
    the tokenizer's template if it has one, else ``plain``."""
    max_new_tokens: Positive = 64
    """Most tokens of a generated answer."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end an answer, besides the model's end token; they are cut off."""
    batch_size: Positive = 16
    """Number of answers that are generated together."""
    score_rounds: bool = True
    """Whether every round is scored by generating answers; false scores only the final models, which saves most of the
    time."""
    samples: Annotated[int, Field(ge=0)] = 3
    """Number of test rows per client whose prompt, reference and answers are in the run folder and the report."""
