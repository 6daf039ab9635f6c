"""Classification: a text or a pair of texts, one label of the client's own list."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from fedlease.config.data import ColumnSettings
from fedlease.config.settings import Settings
from fedlease.core.confusion import cells_of, class_metrics, confusion_matrix, row_shares
from fedlease.core.wording import counted
from fedlease.data.faults import Faults
from fedlease.data.federation import Row
from fedlease.data.reading.examples import read_inputs
from fedlease.data.reading.rows import Table
from fedlease.tasks.base import BATCH, GivesLogits, Measured, MetricWords, Model, OnRows, add_row_fault
from fedlease.tasks.encoded import Encoded, Inputs, evaluation_batches, on_device

__all__ = ["Classification", "collate", "evaluate", "loss", "score"]

EVALUATION_BATCH = 64
COLUMNS = ("input_ids", "token_type_ids")
"""Model inputs that a tokenizer may give; the attention mask follows from the lengths."""


def _words(name: str, **more: Any) -> MetricWords:
    means = {"mean_accuracy": "mean accuracy", "mean_macro_f1": "mean macro F1", "mean_mcc": "mean MCC, x 100"}
    further = {key: text for key, text in means.items() if name not in text}
    common = {"look": "look at the scores of every class", "further": further}
    return MetricWords(name, "majority class", "naming the most frequent class", **{**common, **more})


@dataclass(frozen=True)
class Classification:
    """Cross-entropy over the client's labels.

    Attributes:
        max_tokens: longer rows are cut on the right, of a pair the longer text first.
        metric: the headline.
        balanced: whether every label of a client's train rows weighs the same in its loss.
    """

    max_tokens: int = 128
    metric: str = "accuracy"
    balanced: bool = False
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "mcc", "loss")
    extra_metrics: ClassVar[tuple[str, ...]] = ()
    score_rounds: ClassVar[bool] = True
    num_samples: ClassVar[int] = 0
    prediction_columns: ClassVar[tuple[str, ...]] = ("prediction", "probability", "probabilities")
    headlines: ClassVar[Mapping[str, MetricWords]] = {
        "accuracy": _words("accuracy", look="look at macro F1, which frequent classes do not help"),
        "macro_f1": _words("macro F1", of_rows=False),
        "mcc": _words("MCC", of_rows=False, lowest=-1.0),
    }

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The task with the parameters of a run."""
        return cls(settings.data.max_tokens, settings.metric or "accuracy", settings.train.class_weights == "balanced")

    def describe(self) -> str:
        """What is learnt, in words for reports."""
        return "classification"

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> Encoded:
        """Tokenises texts or pairs of texts, each row as if it were alone.

        Raises:
            DataError: the tokenizer makes no token of a row; the message names file and line.
        """
        kinds = [[i for i, row in enumerate(rows) if (row.text_pair is not None) == pair] for pair in (False, True)]
        found = [self._tokens([rows[i] for i in places], tokenizer) for places in kinds if places]
        back = sorted(range(len(rows)), key=[*kinds[0], *kinds[1]].__getitem__)
        names = [name for name in COLUMNS if all(name in columns for columns, _ in found)]
        columns = {name: [line for part, _ in found for line in part[name]] for name in names if found}
        columns = {name: [column[i] for i in back] for name, column in columns.items()} or {"input_ids": []}
        faults = Faults()
        for row, ids in zip(rows, columns["input_ids"], strict=True):
            if not ids:
                add_row_fault(faults, row, "the model's tokenizer makes no token of it")
        faults.check()
        labels, pad, left = [row.label for row in rows], int(tokenizer.pad_token_id), tokenizer.padding_side == "left"
        return Encoded.of(columns, labels, pad, left=left, truncated=sum(cut for _, cut in found))

    def _tokens(self, rows: Sequence[Row], tokenizer: Any) -> tuple[dict[str, list[list[int]]], int]:
        """Model inputs of rows that are all pairs or all single texts, and how many were cut."""

        def tokenised(some: Sequence[Row], **options: Any) -> dict[str, list[list[int]]]:
            pairs = None if some[0].text_pair is None else [row.text_pair for row in some]
            return dict(tokenizer([row.text for row in some], pairs, padding=False, verbose=False, **options))

        columns = tokenised(rows)
        longer = [i for i, ids in enumerate(columns["input_ids"]) if len(ids) > self.max_tokens]
        if longer:
            cut = tokenised([rows[i] for i in longer], truncation=True, max_length=self.max_tokens)
            for name, column in columns.items():
                for i, line in zip(longer, cut[name], strict=True):
                    column[i] = line
        return columns, len(longer)

    def warnings(self, encoded: Sequence[Encoded]) -> list[str]:
        """One sentence where rows were cut."""
        cut, rows = sum(part.truncated for part in encoded), sum(map(len, encoded))
        if not cut:
            return []
        verbs = ("is", "was") if cut == 1 else ("are", "were")
        of_all = f"{cut} of {counted(rows, 'row')}"
        return [f"{of_all} {verbs[0]} longer than data.max_tokens = {self.max_tokens} and {verbs[1]} cut"]

    def batch_loss(self, model: Model, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """Mean cross-entropy of a batch, weighted where labels are balanced."""
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
        """Mean cross-entropy of all rows, weighted where labels are balanced."""
        return float(loss(evaluate(model, rows, threads), torch.tensor(rows.labels), self.label_weights(rows)))

    def label_weights(self, rows: Encoded) -> Tensor | None:
        """Weights of the labels of these rows, 1 on average over the rows; None where labels are not balanced."""
        if not self.balanced:
            return None
        counts = rows.label_counts
        weights = len(rows) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return torch.from_numpy(weights.astype(np.float32))

    @torch.inference_mode()
    def refitted_loss(self, model: Model, rows: Encoded, threads: int) -> float:
        """Mean squared error of a ridge regression from features to labels, each fifth predicted from the others.

        Of fewer than three rows, which are too few for that, the mean cross-entropy.
        """
        if len(rows) < 3:
            return self.mean_loss(model, rows, threads)
        torch.set_num_threads(threads)
        model.for_scoring()
        batches = evaluation_batches(rows.lengths, EVALUATION_BATCH)
        features = torch.cat([model.features(rows.pad(batch, model.device)).float().cpu() for batch in batches]).numpy()
        labels = np.asarray(rows.labels)[[row for batch in batches for row in batch]]
        ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 4, 5)))
        folds = KFold(min(5, len(labels)), shuffle=True, random_state=0)
        guesses = cross_val_predict(ridge, features, np.eye(labels.max() + 1)[labels], cv=folds)
        return float(((guesses - np.eye(labels.max() + 1)[labels]) ** 2).mean())

    def measure(self, model: Model, rows: Encoded, threads: int, on_rows: OnRows | None = None) -> Measured:
        """The metrics; of accuracy ``per_row`` is 1 where the label is right."""
        logits = evaluate(model, rows, threads, on_rows)
        guesses = logits.argmax(-1).tolist()
        if self.headlines[self.metric].of_rows:
            shares = [float(guess == label) for guess, label in zip(guesses, rows.labels, strict=True)]
        else:
            shares = row_shares(rows.labels, guesses, logits.shape[-1], self.metric)
        sure = [round(value, 6) for value in logits.double().softmax(-1).max(-1).values.tolist()]
        return Measured(
            score(logits, rows.labels),
            tuple(shares),
            confusion=cells_of(rows.labels, guesses),
            predictions={"prediction": guesses, "probability": sure},
        )

    def apart_and_together(self, model: Model, rows: Encoded) -> dict[str, tuple[Tensor, Tensor]]:
        """Logits of every row alone and in one batch."""
        everyone = range(len(rows))
        alone = torch.cat([model.logits(rows.pad([i], model.device)) for i in everyone])
        return {BATCH: (alone.float(), model.logits(rows.pad(everyone, model.device)).float())}

    def samples(self, rows: Sequence[Row], answers: Sequence[str], bare: Sequence[str]) -> list[dict[str, str]]:
        """No samples: a label is no text."""
        return []

    def majority_score(self, train: Sequence[Row], test: Sequence[Row]) -> float:
        """Headline on ``test`` of always giving the most frequent label of ``train``; the smaller label on a tie."""
        majority = int(np.bincount([row.label for row in train]).argmax())
        truth = [row.label for row in test]
        cells = cells_of(truth, [majority] * len(truth))
        return class_metrics(confusion_matrix(cells, 1 + max(majority, *truth)))[self.metric]

    def read_inputs(self, table: Table, columns: ColumnSettings, faults: Faults, *, pairs: bool | None) -> list[Row]:
        """Texts, or pairs of texts, without labels."""
        return read_inputs(table, columns, faults, pairs=pairs)

    def predict(
        self, model: Model, rows: Encoded, labels: Sequence[str], threads: int, on_rows: OnRows | None = None
    ) -> list[dict[str, Any]]:
        """The most probable label of each row, its probability, and those of all labels, which sum to 1."""
        predictions = []
        for values in evaluate(model, rows, threads, on_rows).double().softmax(-1).tolist():
            probabilities = dict(zip(labels, values, strict=True))
            best = max(labels, key=probabilities.__getitem__)
            found = (best, probabilities[best], probabilities)
            predictions.append(dict(zip(self.prediction_columns, found, strict=True)))
        return predictions


def collate(rows: Encoded, indices: Sequence[int], device: torch.device) -> tuple[Inputs, Tensor]:
    """One padded batch: model inputs (b, longest) and labels (b,)."""
    return rows.pad(indices, device), on_device(np.asarray([rows.labels[i] for i in indices]), device)


def loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of (b, labels) logits, in float32; rows times the weight of their label, (labels,).

    The sum is divided by b, not by the weights in the batch: its mean over batches is that over all rows.
    """
    if weights is None:
        return F.cross_entropy(logits.float(), labels)
    return (F.cross_entropy(logits.float(), labels, reduction="none") * weights.to(labels.device)[labels]).mean()


@torch.inference_mode()
def evaluate(model: Model, rows: Encoded, threads: int, on_rows: OnRows | None = None) -> Tensor:
    """Logits of what is loaded, (n, labels) float32 on the CPU, in row order."""
    torch.set_num_threads(threads)
    model.for_scoring()
    parts, order = [], []
    for batch in evaluation_batches(rows.lengths, EVALUATION_BATCH):
        parts.append(model.logits(rows.pad(batch, model.device)).float().cpu())
        order.extend(batch)
        if on_rows is not None:
            on_rows(len(order), len(rows))
    logits = torch.cat(parts)
    return torch.empty_like(logits).index_copy_(0, torch.tensor(order), logits)


def score(logits: Tensor, labels: Sequence[int]) -> dict[str, float]:
    """Accuracy, macro F1 over the labels that occur, Matthews correlation and mean loss of (n, labels) logits."""
    counts = confusion_matrix(cells_of(labels, logits.argmax(-1).tolist()), logits.shape[-1])
    return {**class_metrics(counts), "loss": float(loss(logits, torch.tensor(labels)))}
