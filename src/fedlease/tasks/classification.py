"""Classification: predicts one label of the client's own list for a text or a pair of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedlease.config.data import DataSettings
from fedlease.config.settings import Settings
from fedlease.core.confusion import Cells, cells_of, class_metrics, confusion_matrix, row_shares
from fedlease.data.federation import Row
from fedlease.data.labels import known_label
from fedlease.data.reading.rows import Table
from fedlease.tasks.base import UNSCALED, GivesLogits, Measured, Model, Scale
from fedlease.tasks.encoded import Encoded, Inputs, on_device
from fedlease.tasks.metrics import LOSS, Graded, Metric, MetricWords
from fedlease.tasks.texts import OutputTask, Texts, evaluate

__all__ = ["Classification", "collate", "loss", "score"]


def _words(name: str, **more: Any) -> MetricWords:
    means = {"mean_accuracy": "mean accuracy", "mean_macro_f1": "mean macro F1", "mean_mcc": "mean MCC, x 100"}
    further = {key: text for key, text in means.items() if name not in text}
    common = {"look": "look at the scores of every class", "further": further}
    return MetricWords(name, "majority class", "naming the most frequent class", **{**common, **more})


@dataclass(frozen=True)
class Classification(OutputTask):
    """Cross-entropy over the client's labels.

    Attributes:
        max_tokens: longer rows are cut on the right, of a pair the longer text first.
        metric: the headline metric.
        balanced: whether every label of a client's train rows has the same weight in its loss.
    """

    max_tokens: int = 128
    metric: str = "accuracy"
    balanced: bool = False
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric(),
        "macro_f1": Metric(),
        "mcc": Metric(lowest=-1.0),
        "loss": LOSS,
    }
    extra_metrics: ClassVar[Mapping[str, Metric]] = {}

    prediction_columns: ClassVar[tuple[str, ...]] = ("prediction", "probability", "probabilities")
    answer: ClassVar[str] = "label"
    headlines: ClassVar[Mapping[str, MetricWords]] = {
        "accuracy": _words("accuracy", look="look at macro F1, which frequent classes do not help"),
        "macro_f1": _words("macro F1", of_rows=False),
        "mcc": _words("MCC", of_rows=False),
    }

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The task with the parameters of a run."""
        return cls(settings.data.max_tokens, settings.metric or "accuracy", settings.train.class_weights == "balanced")

    def describe(self) -> str:
        """Name of the task, in words for reports."""
        return "classification"

    def encode(self, rows: Sequence[Row], tokenizer: Any, scale: Scale = UNSCALED) -> Encoded:
        """Tokenises texts or pairs of texts; ignores ``scale``.

        Raises:
            DataError: the tokenizer makes no token of a row; the message names file and line.
        """
        return Texts(self.max_tokens).encode(rows, [row.label for row in rows], tokenizer)

    def batch_loss(self, model: Model, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """Mean cross-entropy of a batch, weighted if labels are balanced."""
        inputs, labels = collate(rows, indices, model.device)
        return loss(model.logits(inputs), labels, self.label_weights(rows))

    def row_losses(self, model: GivesLogits, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """Cross-entropy of every row, (b,)."""
        inputs, labels = collate(rows, indices, model.device)
        return F.cross_entropy(model.logits(inputs).float(), labels, reduction="none")

    def row_shares(self, rows: Encoded, indices: Sequence[int]) -> list[float]:
        """The weight of every row's label, divided by the number of rows."""
        weights, count = self.label_weights(rows), len(indices)
        return [(1.0 if weights is None else float(weights[rows.labels[i]])) / count for i in indices]

    def mean_loss(self, model: Model, rows: Encoded, threads: int) -> float:
        """Mean cross-entropy of all rows, weighted if labels are balanced."""
        return float(loss(evaluate(model, rows, threads), torch.tensor(rows.labels), self.label_weights(rows)))

    def label_weights(self, rows: Encoded) -> Tensor | None:
        """Weights of the labels, with a mean of 1 over the rows; None if labels are not balanced."""
        if not self.balanced:
            return None
        counts = rows.label_counts
        weights = len(rows) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return torch.from_numpy(weights.astype(np.float32))

    def bias(self, rows: Encoded, outputs: int) -> Tensor | None:
        """The log frequency of every label, weighted as in the loss; None if there are more labels than outputs.

        One row is added per label, so that the value of a missing label is finite.
        """
        if outputs <= max(rows.labels):
            return None
        frequency, weights = (
            torch.bincount(torch.tensor(rows.labels), minlength=outputs) + 1.0,
            self.label_weights(rows),
        )
        if weights is not None:
            frequency[: len(weights)] *= weights
        return (frequency / frequency.sum()).log()

    def measured(self, outputs: Tensor, rows: Encoded) -> Measured:
        """The metrics; for accuracy, ``per_row`` is 1 if the label is right and 0 otherwise."""
        guesses = outputs.argmax(-1).tolist()
        if self.headlines[self.metric].of_rows:
            shares = [float(guess == label) for guess, label in zip(guesses, rows.labels, strict=True)]
        else:
            shares = row_shares(rows.labels, guesses, outputs.shape[-1], self.metric)
        sure = [round(value, 6) for value in outputs.double().softmax(-1).max(-1).values.tolist()]
        return Measured(
            score(outputs, rows.labels),
            tuple(shares),
            confusion=cells_of(rows.labels, guesses),
            predictions={"prediction": guesses, "probability": sure},
        )

    def majority_score(self, train: Sequence[Row], test: Sequence[Row]) -> float:
        """Headline metric on ``test`` of always predicting the most frequent label of ``train``; the first on a tie."""
        majority = int(np.bincount([row.label for row in train]).argmax())
        truth = [row.label for row in test]
        cells = cells_of(truth, [majority] * len(truth))
        return class_metrics(confusion_matrix(cells, 1 + max(majority, *truth)))[self.metric]

    def read_outputs(self, outputs: Tensor, labels: Sequence[str], scale: Scale = UNSCALED) -> list[dict[str, Any]]:
        """For each row of logits (n, labels), the most probable label, its probability, and those of all labels."""
        predictions = []
        for values in outputs.double().softmax(-1).tolist():
            probabilities = dict(zip(labels, values, strict=True))
            best = max(labels, key=probabilities.__getitem__)
            found = (best, probabilities[best], probabilities)
            predictions.append(dict(zip(self.prediction_columns, found, strict=True)))
        return predictions

    def tallied(self, cells: Cells, labels: int, rows: int) -> dict[str, float] | None:
        """All metrics except the loss."""
        if any(max(true, guess) >= labels for true, guess, _ in cells) or sum(count for *_, count in cells) != rows:
            return None
        return class_metrics(confusion_matrix(cells, labels))

    def grade(
        self, table: Table, settings: DataSettings, labels: Sequence[str], predictions: Sequence[Mapping[str, Any]]
    ) -> Graded | None:
        """Scores predicted labels; a row whose label the client does not know is wrong."""
        column = settings.columns.label
        if column not in table.columns:
            return None
        truths = [known_label(record.values.get(column), labels, typed=table.typed) for record in table.records]
        pairs = [(t, row["prediction"]) for t, row in zip(truths, predictions, strict=True) if t is not None]
        if not pairs:
            return None
        unknown = tuple(sorted({truth for truth, _ in pairs} - {*labels}))
        number = {label: index for index, label in enumerate((*labels, *unknown))}
        cells = cells_of([number[truth] for truth, _ in pairs], [number[guess] for _, guess in pairs])
        return Graded(class_metrics(confusion_matrix(cells, len(number))), len(pairs), unknown, cells)


def collate(rows: Encoded, indices: Sequence[int], device: torch.device) -> tuple[Inputs, Tensor]:
    """One padded batch: model inputs (b, longest) and labels (b,)."""
    return rows.pad(indices, device), on_device(np.asarray([rows.labels[i] for i in indices]), device)


def loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of logits, (b, labels), in float32; rows are weighted by their labels' weights, (labels,).

    The sum is divided by b and not by the batch's weights, so that the mean over batches is that over all rows.
    """
    if weights is None:
        return F.cross_entropy(logits.float(), labels)
    return (
        F.cross_entropy(logits.float(), labels, reduction="none") * on_device(weights.numpy(), labels.device)[labels]
    ).mean()


def score(logits: Tensor, labels: Sequence[int]) -> dict[str, float]:
    """Accuracy, macro F1 over the labels that occur, Matthews correlation and mean loss of (n, labels) logits."""
    counts = confusion_matrix(cells_of(labels, logits.argmax(-1).tolist()), logits.shape[-1])
    return {**class_metrics(counts), "loss": float(loss(logits, torch.tensor(labels)))}
