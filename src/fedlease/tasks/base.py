"""The contract of a task, which defines the loss and the scores of a client's model."""

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
"""Receives the number of rows done and of all rows."""

BATCH = "the rows that share its batch"
"""Words for a circumstance on which no prediction may depend, see :meth:`Task.apart_and_together`."""


class GivesLogits(Protocol):
    """The base model with the adapters and heads of one or several clients."""

    device: torch.device

    def logits(self, inputs: Inputs, last: int | None = None) -> Tensor:
        """Logits: (b, labels), or of a language model (b, tokens, vocabulary), or only of the ``last`` tokens."""


class Model(GivesLogits, Protocol):
    """The model of a task: the base model with one client's adapter and head."""

    def generate(self, inputs: Inputs, **options: Any) -> Tensor:
        """Token ids of prompt and continuation, (b, tokens)."""

    def weighing(self, questions: Inputs) -> AbstractContextManager[None]:
        """Within the context, mixtures with weights per input compute these from the questions, without the answers."""

    def for_scoring(self) -> None:
        """Switches dropout off."""


def add_row_fault(faults: Faults, row: Row, rule: str) -> None:
    """Notes the rule that a row breaks, with its place in a file or, if it has none, its beginning."""
    if row.place is None:
        faults.add(f"{reprlib.repr(row.text)}: {rule}", kind=rule)
    else:
        faults.at(*row.place, None, rule, kind=rule)


@serialisable
@dataclass(frozen=True)
class Measured:
    """The results of a model on a client's rows.

    Attributes:
        metrics: name -> mean over the rows; higher is better, except for ``loss``.
        per_row: one number per row, in row order, whose mean is the headline metric, for paired comparisons. If the
            metric is no mean over rows, they are those of :func:`fedlease.core.confusion.row_shares`.
        answers: generated answers, in row order; empty for classifiers.
        confusion: of classifiers, the numbers of rows by true and predicted class; of sets of labels, those of
            :func:`fedlease.core.label_sets.cells_of_sets`.
        predictions: name -> values, one per row in row order. ``prediction`` has a class index, a list of them, a
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
        headlines: key of every possible headline metric -> its words for reports. If there are several, the task's row
            in the table names them for the setting ``metric``.
        metrics: key -> metric, of the metrics that :meth:`measure` always returns.
        extra_metrics: key -> metric, of the metrics that it returns only for some rows.
        prediction_columns: columns that :meth:`predict` adds to rows, of which ``prediction`` is the first.
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
        """Whether rounds are scored; otherwise only the result is."""

    @property
    def num_samples(self) -> int:
        """Number of test rows per client whose answers are written to the run folder."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The task with the parameters of a run."""

    def describe(self) -> str:
        """Name of the task, in words for reports."""

    def encode(self, rows: Sequence[Row], tokenizer: Any, scale: Scale = UNSCALED) -> Encoded:
        """Tokenises rows; rows that exceed the limit are cut and counted.

        ``scale`` is that of the client's numbers, see :attr:`fedlease.data.federation.ClientData.scale`.
        """

    def warnings(self, encoded: Sequence[Encoded]) -> list[str]:
        """Warnings about rows that were cut, one sentence each."""

    def batch_loss(self, model: Model, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """The training loss of a batch, a scalar with gradients."""

    def label_weights(self, rows: Encoded) -> Tensor | None:
        """Weights of the labels in the loss on these rows, (labels,); None if all are equal."""

    def bias(self, rows: Encoded, outputs: int) -> Tensor | None:
        """The best biases, (outputs,), of a head with this number of outputs if its input were constant.

        None if the head needs no such biases, or its last layer does not have this number of outputs.
        """

    def mean_loss(self, model: Model, rows: Encoded, threads: int) -> float:
        """Mean loss over all rows, without gradients."""

    def measure(self, model: Model, rows: Encoded, threads: int, on_rows: OnRows | None = None) -> Measured:
        """Scores the loaded model on rows with known targets."""

    def apart_and_together(self, model: Model, rows: Encoded) -> dict[str, tuple[Tensor, Tensor]]:
        """Circumstance -> predictions without it and with it, (rows, ...), which must be equal.

        ``rows`` are three rows, of which the second is the longest.
        """

    def samples(self, rows: Sequence[Row], answers: Sequence[str], bare: Sequence[str]) -> list[dict[str, str]]:
        """A few rows with references and the answers of the untrained and of this model; empty for other tasks."""

    def majority_score(self, train: Sequence[Row], test: Sequence[Row]) -> float:
        """Headline metric on ``test`` of always giving the most frequent answer of ``train``."""

    def read_inputs(self, table: Table, columns: ColumnSettings, faults: Faults, *, pairs: bool | None) -> list[Row]:
        """The usable rows of a table without their targets; faults of the others are added to ``faults``.

        ``pairs`` says whether a second text is needed; None means that it is if the table has a column for it.
        """

    def predict(
        self, model: Model, rows: Encoded, labels: Sequence[str], threads: int, on_rows: OnRows | None = None
    ) -> list[dict[str, Any]]:
        """Values of :attr:`prediction_columns` for each row, in row order; targets in the rows are ignored.

        The model has the adapter and head of the client whose ``labels`` are given; there is at least one row.
        """

    def tallied(self, cells: Cells, labels: int, rows: int) -> Mapping[str, float] | None:
        """Metrics that follow from the cells for a number of labels; None if the cells are impossible for the rows."""

    def grade(
        self, table: Table, settings: DataSettings, labels: Sequence[str], predictions: Sequence[Mapping[str, Any]]
    ) -> Graded | None:
        """Compares predictions, one per row, with the targets in a table; None if the table has none."""


@runtime_checkable
class HeadTask(Task, Protocol):
    """A task whose clients have a head, whose outputs give the predictions.

    Attributes:
        answer: key of the prediction in a service's responses.
    """

    answer: ClassVar[str]

    def read_outputs(self, outputs: Tensor, labels: Sequence[str], scale: Scale) -> list[dict[str, Any]]:
        """Predictions in the form of :meth:`predict`, from outputs of the client's head, (n, outputs)."""


@runtime_checkable
class WritingTask(Task, Protocol):
    """A task whose model generates texts, and can have conversations."""

    max_new_tokens: int

    def write(
        self,
        model: Model,
        rows: Encoded,
        threads: int,
        on_rows: OnRows | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> list[str]:
        """Generates answers to prompts, in row order; a single answer is also passed piece by piece to ``on_text``."""


class StackedClients(GivesLogits, Protocol):
    """The base model with adapters and heads of several clients; a batch has equally many rows of each, in turn.

    Attributes:
        num_labels: number of labels of every client; further logits of its rows are -inf.
    """

    num_labels: Sequence[int]

    def narrow(self, clients: int) -> None:
        """Restricts further computation to the first clients."""

    def generate(self, inputs: Inputs, **options: Any) -> Tensor:
        """See :meth:`Model.generate`."""

    def weighing(self, questions: Inputs) -> AbstractContextManager[None]:
        """See :meth:`Model.weighing`."""


@runtime_checkable
class StackingTask(Task, Protocol):
    """A task whose loss is a sum over rows, so that one batch may have rows of several clients.

    ``batch_loss`` is the sum of :meth:`row_losses`, weighted by :meth:`row_shares`.
    """

    def row_losses(self, model: GivesLogits, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """The loss of every row of a batch, (b,) with gradients."""

    def row_shares(self, rows: Encoded, indices: Sequence[int]) -> list[float]:
        """The weight of each row of a batch in the loss; ``rows`` are one client's."""

    def measure_stacked(self, model: StackedClients, clients: Sequence[Encoded], threads: int) -> list[Measured]:
        """Measures every client, see :meth:`Task.measure`; the client with the most rows must be first."""
