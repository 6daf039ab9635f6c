"""Multi-label classification: a text or a pair of texts, any number of labels of the client's own list."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedlease.config.data import DataSettings
from fedlease.config.settings import Settings
from fedlease.core.confusion import Cells
from fedlease.core.label_sets import cells_of_sets, is_of_sets, set_metrics, set_shares
from fedlease.data.federation import Row
from fedlease.data.labels import known_label
from fedlease.data.reading.rows import Table
from fedlease.data.reading.targets import labels_of
from fedlease.tasks.base import UNSCALED, GivesLogits, Measured, Model, Scale
from fedlease.tasks.encoded import Encoded, Packed, on_device
from fedlease.tasks.encoded_sets import EncodedSets, Flags
from fedlease.tasks.metrics import LOSS, Graded, Metric, MetricWords
from fedlease.tasks.texts import OutputTask, Texts, evaluate

__all__ = ["Multilabel"]

LOWEST = -1e4
"""Finite logit with probability 0."""


def _words(name: str, **more: Any) -> MetricWords:
    means = {
        "mean_micro_f1": "mean micro F1",
        "mean_macro_f1": "mean macro F1",
        "mean_subset_accuracy": "mean subset accuracy",
    }
    further = {key: text for key, text in means.items() if name not in text}
    common = {"look": "look at the scores of every label", "further": further, "of_rows": False}
    rule = "giving the most frequent set of labels"
    return MetricWords(name, "most frequent label set", rule, **{**common, **more})


@dataclass(frozen=True)
class Multilabel(OutputTask):
    """Binary cross-entropy of every label of the client.

    Attributes:
        max_tokens: longer rows are cut on the right, of a pair the longer text first.
        metric: the headline.
        balanced: whether the rows with a label together weigh as much in the loss as those without it.
        threshold: least probability of predicted labels.
    """

    max_tokens: int = 128
    metric: str = "micro_f1"
    balanced: bool = False
    threshold: float = 0.5
    metrics: ClassVar[Mapping[str, Metric]] = {
        "micro_f1": Metric(),
        "macro_f1": Metric(),
        "subset_accuracy": Metric(),
        "loss": LOSS,
    }
    extra_metrics: ClassVar[Mapping[str, Metric]] = {}

    prediction_columns: ClassVar[tuple[str, ...]] = ("prediction", "probabilities")
    answer: ClassVar[str] = "labels"
    headlines: ClassVar[Mapping[str, MetricWords]] = {
        "micro_f1": _words("micro F1", look="look at macro F1, which frequent labels do not help"),
        "macro_f1": _words("macro F1"),
        "subset_accuracy": _words("subset accuracy", of_rows=True),
    }

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The task with the parameters of a run."""
        balanced, metric = settings.train.class_weights == "balanced", settings.metric or "micro_f1"
        return cls(settings.data.max_tokens, metric, balanced, settings.multilabel.threshold)

    def describe(self) -> str:
        """Name of the task, in words for reports."""
        return "multi-label classification"

    def encode(self, rows: Sequence[Row], tokenizer: Any, scale: Scale = UNSCALED) -> EncodedSets:
        """Tokenises texts or pairs of texts, each row as if it were alone; there is nothing to scale.

        Raises:
            DataError: the tokenizer makes no token of a row; the message names file and line.
        """
        marks = [row.marks or () for row in rows]
        number = {found: place for place, found in enumerate(sorted({*marks}))}
        plain = Texts(self.max_tokens).encode(rows, [number[found] for found in marks], tokenizer)
        return EncodedSets(**vars(plain), marks=Packed.of(marks))

    def batch_loss(self, model: Model, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """Mean binary cross-entropy of all labels of a batch, weighted where labels are balanced."""
        logits = model.logits(rows.pad(indices, model.device))
        return _loss(logits, rows, indices, self.label_weights(rows, logits.shape[-1]))

    def row_losses(self, model: GivesLogits, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """Binary cross-entropy of every row, (b,), averaged over the labels of its client, and weighted if balanced.

        Labels that a row's client lacks must have the logit -inf.
        """
        assert isinstance(rows, EncodedSets)
        logits = model.logits(rows.pad(indices, model.device)).float()
        wanted = on_device(rows.flags(indices, logits.shape[-1]).astype(np.float32), logits.device)
        weights = None
        if self.balanced:
            owner, parts = rows.of_clients
            found = [self.label_weights(part, logits.shape[-1]) for part in parts]
            weights = on_device(
                torch.stack([w for w in found if w is not None])[owner[list(indices)]].numpy(), logits.device
            )
        there = logits > -math.inf
        losses = F.binary_cross_entropy_with_logits(
            logits.clamp(min=LOWEST), wanted, pos_weight=weights, reduction="none"
        )
        return losses.where(there, 0.0).sum(1) / there.sum(1)

    def label_weights(self, rows: Encoded, labels: int = 0) -> Tensor | None:
        """Weight of a row with a label relative to one without, (labels,); None if labels are not balanced.

        It is rows without it / rows with it, or 1 if either number is 0.
        """
        if not self.balanced:
            return None
        assert isinstance(rows, EncodedSets)
        having = rows.counts(labels)
        without = len(rows) - having
        weights = np.where((having > 0) & (without > 0), without / np.maximum(having, 1), 1.0)
        return torch.from_numpy(weights.astype(np.float32))

    def bias(self, rows: Encoded, outputs: int) -> Tensor | None:
        """The log odds of every label, weighted as in the loss; None if there are more labels than outputs.

        One row with and one without are added per label, so that both stay finite.
        """
        assert isinstance(rows, EncodedSets)
        having = torch.from_numpy(rows.counts(outputs)).float()
        if len(having) > outputs:
            return None
        odds = (having + 1) / (len(rows) - having + 1)
        weights = self.label_weights(rows, outputs)
        return (odds if weights is None else odds * weights).log()

    def mean_loss(self, model: Model, rows: Encoded, threads: int) -> float:
        """Mean binary cross-entropy of all labels of all rows, weighted where labels are balanced."""
        logits = evaluate(model, rows, threads)
        return float(_loss(logits, rows, range(len(rows)), self.label_weights(rows, logits.shape[-1])))

    def measured(self, outputs: Tensor, rows: Encoded) -> Measured:
        """The metrics; for subset accuracy, ``per_row`` is 1 for rows whose labels are all right."""
        assert isinstance(rows, EncodedSets)
        every = range(len(rows))
        truth = rows.flags(every, outputs.shape[-1])
        probabilities = outputs.double().sigmoid()
        guesses = (probabilities >= self.threshold).numpy()
        metrics, exact = _scores(truth, guesses)
        shares = exact if self.headlines[self.metric].of_rows else set_shares(truth, guesses, self.metric)
        return Measured(
            {**metrics, "loss": float(_loss(outputs, rows, every))},
            tuple(shares),
            confusion=cells_of_sets(truth, guesses),
            predictions={
                "prediction": [np.flatnonzero(line).tolist() for line in guesses],
                "probabilities": [[round(value, 6) for value in line] for line in probabilities.tolist()],
            },
        )

    def majority_score(self, train: Sequence[Row], test: Sequence[Row]) -> float:
        """Headline on ``test`` of always giving the most frequent label set of ``train``, on a tie the first."""
        counts = Counter(row.marks or () for row in train)
        most = min(counts, key=lambda marks: (-counts[marks], marks))
        labels = 1 + max((mark for row in (*train, *test) for mark in row.marks or ()), default=0)
        truth = _flags([row.marks or () for row in test], labels)
        return _scores(truth, _flags([most] * len(test), labels))[0][self.metric]

    def read_outputs(self, outputs: Tensor, labels: Sequence[str], scale: Scale = UNSCALED) -> list[dict[str, Any]]:
        """For each row of logits (n, labels), the labels whose probability reaches the threshold, and all of them."""
        predictions = []
        for values in outputs.double().sigmoid().tolist():
            probabilities = dict(zip(labels, values, strict=True))
            chosen = [label for label, value in probabilities.items() if value >= self.threshold]
            predictions.append(dict(zip(self.prediction_columns, (chosen, probabilities), strict=True)))
        return predictions

    def tallied(self, cells: Cells, labels: int, rows: int) -> dict[str, float] | None:
        """Micro and macro F1."""
        largest = max((max(true, guess) for true, guess, _ in cells), default=-1)
        if largest != labels or [labels, labels, rows] not in [list(cell) for cell in cells]:
            return None
        off = any(true != guess and labels not in (true, guess) for true, guess, _ in cells)
        many = any(count > rows for *_, count in cells)
        return None if off or many or not is_of_sets(cells, labels) else set_metrics(cells, labels)

    def grade(
        self, table: Table, settings: DataSettings, labels: Sequence[str], predictions: Sequence[Mapping[str, Any]]
    ) -> Graded | None:
        """Scores predicted labels; labels that the client does not know count as missed."""
        columns = settings.columns
        if not {*(columns.labels or (columns.label,))} <= {*table.columns}:
            return None
        truths: list[tuple[str, ...]] = []
        guesses: list[Sequence[str]] = []
        for record, row in zip(table.records, predictions, strict=True):
            found = labels_of(record, table, columns, settings.label_separator, lambda column, rule: None)
            if found is not None:
                names = (known_label(name, labels, typed=table.typed) for name in found)
                truths.append(tuple(name for name in names if name is not None))
                guesses.append(row["prediction"])
        if not truths:
            return None
        unknown = tuple(sorted({name for names in truths for name in names} - {*labels}))
        place = {label: index for index, label in enumerate((*labels, *unknown))}
        truth, guess = (_flags([[place[n] for n in names] for names in part], len(place)) for part in (truths, guesses))
        return Graded(_scores(truth, guess)[0], len(truths), unknown, cells_of_sets(truth, guess))


def _loss(logits: Tensor, rows: Encoded, indices: Sequence[int], weights: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of (b, labels) logits, in float32; rows with a label are weighted by its weight."""
    assert isinstance(rows, EncodedSets)
    wanted = on_device(rows.flags(indices, logits.shape[-1]).astype(np.float32), logits.device)
    weights = None if weights is None else on_device(weights.numpy(), logits.device)
    return F.binary_cross_entropy_with_logits(logits.float(), wanted, pos_weight=weights)


def _flags(marks: Sequence[Sequence[int]], labels: int) -> Flags:
    found = np.zeros((len(marks), labels), bool)
    for line, own in enumerate(marks):
        found[line, list(own)] = True
    return found


def _scores(truth: Flags, guesses: Flags) -> tuple[dict[str, float], list[float]]:
    """All metrics except the loss; and for every row, 1 if all its labels are right, else 0."""
    exact: list[float] = (truth == guesses).all(1).astype(float).tolist()
    metrics = set_metrics(cells_of_sets(truth, guesses), truth.shape[1])
    return {**metrics, "subset_accuracy": sum(exact) / len(exact)}, exact
