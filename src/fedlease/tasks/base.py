"""The contract of a task: what a client optimises and how it is scored, over the one resident model."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from fedlease.config.data import ColumnSettings, DataSettings
from fedlease.config.settings import Settings
from fedlease.core.codec import serialisable
from fedlease.core.confusion import Cells
from fedlease.data.faults import Faults
from fedlease.data.federation import UNSCALED, Row, Scale
from fedlease.data.reading.rows import Table
from fedlease.tasks.encoded import Encoded, Inputs
from fedlease.tasks.metrics import Graded, Metric, MetricWords

__all__ = [
    "BATCH",
    "UNSCALED",
    "HeadTask",
    "Measured",
    "Model",
    "OnRows",
    "Scale",
    "StackingTask",
    "Task",
    "WritingTask",
    "add_row_fault",
]

OnRows = Callable[[int, int], None]
"""Receives rows done and rows in total."""

BATCH = "the rows that share its batch"
"""A circumstance that no prediction may depend on, in words for :meth:`Task.apart_and_together`."""


class GivesLogits(Protocol):
    """The base model with the adapters and heads of one client or several in place."""

    device: torch.device

    def logits(self, inputs: Inputs, last: int | None = None) -> Tensor:
        """(b, labels) of a classifier; (b, tokens, vocabulary) of a language model, or of the ``last`` tokens only."""


class Model(GivesLogits, Protocol):
    """The model of a task: the base model with one client's adapter and head in place."""

    def generate(self, inputs: Inputs, **options: Any) -> Tensor:
        """Token ids of prompt and continuation, (b, tokens)."""

    def weighing(self, questions: Inputs) -> AbstractContextManager[None]:
        """Has mixtures that weigh whole inputs weigh these, not what follows them, while the context is open."""

    def for_scoring(self) -> None:
        """Switches dropout off."""


def add_row_fault(faults: Faults, row: Row, rule: str) -> None:
    """Notes what is wrong with a row: where it stands or, of no file, how it begins, and the rule it breaks."""
    if row.place is None:
        faults.add(f"{reprlib.repr(row.text)}: {rule}", kind=rule)
    else:
        faults.at(*row.place, None, rule, kind=rule)


@serialisable
@dataclass(frozen=True)
class Measured:
    """How a model does on a client's rows.

    Attributes:
        metrics: name -> mean over the rows; higher is better, but for ``loss``.
        per_row: a number per row, in row order, whose mean is the headline metric; comparisons are paired by it. A
            metric that is no mean over rows gives :func:`fedlease.core.confusion.row_shares`.
        answers: what the model wrote, in row order; empty for classifiers.
        confusion: of classifiers, the rows by true and predicted class; of sets of labels as
            :func:`fedlease.core.label_sets.cells_of_sets` counts them.
        predictions: name -> value per row, in row order, ``prediction`` among them: a class index, a list of them, a
            number, or a text.
    """

    metrics: Mapping[str, float]
    per_row: tuple[float, ...]
    answers: tuple[str, ...] = ()
    confusion: Cells = ()
    predictions: Mapping[str, list[Any]] = field(default_factory=dict)


class Task(Protocol):
    """A kind of learning problem. Implementations are frozen dataclasses of their parameters.

    Its row in :data:`fedlease.config.tables.TASKS` states what it needs of rows and which models it trains.

    Attributes:
        headlines: key of every metric that may be the headline -> what reports call it and what stands beside it. Where
            there are several, the task's row in the table names them for ``metric`` in the settings.
        metrics: every metric that :meth:`measure` gives for any rows, by key.
        extra_metrics: metrics that it gives for some rows alone.
        prediction_columns: columns that :meth:`predict` adds to rows, ``prediction`` the first.
    """

    headlines: ClassVar[Mapping[str, MetricWords]]
    metrics: ClassVar[Mapping[str, Metric]]
    extra_metrics: ClassVar[Mapping[str, Metric]]
    prediction_columns: ClassVar[tuple[str, ...]]

    @property
    def metric(self) -> str:
        """Key of the headline metric."""

    @property
    def score_rounds(self) -> bool:
        """Whether rounds are scored, or the result alone."""

    @property
    def num_samples(self) -> int:
        """Test rows per client whose answers are written to the run folder."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The task with the parameters of a run."""

    def describe(self) -> str:
        """Name of the task, in words for reports."""

    def encode(self, rows: Sequence[Row], tokenizer: Any, scale: Scale = UNSCALED) -> Encoded:
        """Tokenises rows; what is longer than the limit is cut and counted.

        ``scale`` is that of the client's numbers, see :attr:`fedlease.data.federation.ClientData.scale`.
        """

    def warnings(self, encoded: Sequence[Encoded]) -> list[str]:
        """Plain sentences about what was cut."""

    def batch_loss(self, model: Model, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """The training loss of a batch, a scalar with gradients."""

    def label_weights(self, rows: Encoded) -> Tensor | None:
        """Weights of the labels in the loss on these rows, (labels,); None if all weigh the same."""

    def bias(self, rows: Encoded, outputs: int) -> Tensor | None:
        """Biases of a head with this number of outputs if rows differed in nothing but the target, (outputs,).

        None if a head needs none, or if such a layer is not its last.
        """

    def mean_loss(self, model: Model, rows: Encoded, threads: int) -> float:
        """Mean loss over all rows, without gradients."""

    def measure(self, model: Model, rows: Encoded, threads: int, on_rows: OnRows | None = None) -> Measured:
        """Scores what is loaded on rows whose answers are known."""

    def apart_and_together(self, model: Model, rows: Encoded) -> dict[str, tuple[Tensor, Tensor]]:
        """A circumstance -> predictions without it and with it, (rows, ...), which must be equal.

        There are three rows, of which the second is the longest.
        """

    def samples(self, rows: Sequence[Row], answers: Sequence[str], bare: Sequence[str]) -> list[dict[str, str]]:
        """A few rows with their reference, the untrained model's answer and this one's; empty where none are kept."""

    def majority_score(self, train: Sequence[Row], test: Sequence[Row]) -> float:
        """Headline metric on ``test`` of always giving the most frequent answer of ``train``."""

    def read_inputs(self, table: Table, columns: ColumnSettings, faults: Faults, *, pairs: bool | None) -> list[Row]:
        """The rows of a table whose answers are not known or not asked for; what cannot be used is added to ``faults``.

        ``pairs`` says whether a second text is needed; None takes one where the table has the column.
        """

    def predict(
        self, model: Model, rows: Encoded, labels: Sequence[str], threads: int, on_rows: OnRows | None = None
    ) -> list[dict[str, Any]]:
        """Values of :attr:`prediction_columns` for each row, in row order; answers in the rows are not looked at.

        The model has a client's adapter and head loaded, whose labels are given; there is at least one row.
        """

    def tallied(self, cells: Cells, labels: int, rows: int) -> Mapping[str, float] | None:
        """Metrics that follow from the cells of a number of labels; None if no predictions of these rows give them."""

    def grade(
        self, table: Table, settings: DataSettings, labels: Sequence[str], predictions: Sequence[Mapping[str, Any]]
    ) -> Graded | None:
        """Compares predictions, one per row, with the answers in a table; None if the table has no answers."""


@runtime_checkable
class HeadTask(Task, Protocol):
    """A task whose clients have a head, so that a prediction can be read off its outputs.

    Attributes:
        answer: what a service calls ``prediction``.
    """

    answer: ClassVar[str]

    def read_outputs(self, outputs: Tensor, labels: Sequence[str], scale: Scale) -> list[dict[str, Any]]:
        """Predictions as of :meth:`predict`, from outputs of the client's head, (n, outputs)."""


@runtime_checkable
class WritingTask(Task, Protocol):
    """A task whose model writes texts, so that one can talk to it."""

    max_new_tokens: int

    def write(
        self,
        model: Model,
        rows: Encoded,
        threads: int,
        on_rows: OnRows | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> list[str]:
        """Answers to prompts, in row order; of a single prompt also piece by piece to ``on_text``."""


class StackedClients(GivesLogits, Protocol):
    """The base model with the adapters and heads of several clients in place, whose rows come in turn, equally many.

    Attributes:
        num_labels: of every client; further logits of its rows are -inf.
    """

    num_labels: Sequence[int]

    def narrow(self, clients: int) -> None:
        """Restricts further computation to the first clients."""

    def generate(self, inputs: Inputs, **options: Any) -> Tensor:
        """Generates as :meth:`Model.generate`."""

    def weighing(self, questions: Inputs) -> AbstractContextManager[None]:
        """Weighs as :meth:`Model.weighing`."""


@runtime_checkable
class StackingTask(Task, Protocol):
    """A task whose loss is a sum over rows, so that one batch may hold the rows of several clients.

    ``batch_loss`` of some rows is the sum of their :meth:`row_losses`, each times its share by :meth:`row_shares`.
    """

    def row_losses(self, model: GivesLogits, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """The loss of every row of a batch, (b,) with gradients."""

    def row_shares(self, rows: Encoded, indices: Sequence[int]) -> list[float]:
        """How much each row counts; ``rows`` are one client's, ``indices`` a batch of its own."""

    def measure_stacked(self, model: StackedClients, clients: Sequence[Encoded], threads: int) -> list[Measured]:
        """Measures every client as :meth:`Task.measure`; the client with the most rows comes first."""
