"""Classification: a text or a pair of texts, one label of the client's own list."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedlease.core.wording import counted
from fedlease.data.federation import Row
from fedlease.errors import DataError
from fedlease.tasks.base import Encoded, Inputs, Measured, Model, OnRows, row_fault
from fedlease.tasks.batches import evaluation_batches

__all__ = ["Classification", "collate", "evaluate", "loss", "majority_score", "score"]

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Classification:
    """Cross-entropy over the client's labels, scored by accuracy.

    Attributes:
        max_tokens: longer rows are cut on the right, of a pair the longer text first.
    """

    max_tokens: int = 128
    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = "accuracy"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "mcc", "loss")
    extra_metrics: ClassVar[tuple[str, ...]] = ()
    peft_type: ClassVar[str] = "SEQ_CLS"

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> Encoded:
        """Tokenises texts or pairs of texts, each row as if it were alone.

        Raises:
            DataError: the tokenizer makes no token of a row; the message names file and line.
        """
        padding = {"input_ids": int(tokenizer.pad_token_id), "attention_mask": 0, "token_type_ids": 0}
        kinds = [[i for i, row in enumerate(rows) if (row.pair is not None) == paired] for paired in (False, True)]
        found = [self._tokens([rows[i] for i in places], tokenizer) for places in kinds if places]
        back = sorted(range(len(rows)), key=[*kinds[0], *kinds[1]].__getitem__)
        names = [name for name in padding if all(name in columns for columns, _ in found)]
        columns = {name: [line for part, _ in found for line in part[name]] for name in names if found}
        columns = {name: [column[i] for i in back] for name, column in columns.items()} or {"input_ids": []}
        empty = [row for row, ids in zip(rows, columns["input_ids"], strict=True) if not ids]
        if empty:
            raise DataError([row_fault(row, "the model's tokenizer makes no token of it") for row in empty])
        truncated = sum(cut for _, cut in found)
        labels = tuple(row.label for row in rows)
        return Encoded(columns, labels, padding, tokenizer.padding_side == "left", truncated)

    def _tokens(self, rows: Sequence[Row], tokenizer: Any) -> tuple[dict[str, list[list[int]]], int]:
        """Model inputs of rows that are all pairs or all none, and how many were cut, which every tokenizer tells."""

        def tokenised(some: Sequence[Row], **options: Any) -> dict[str, list[list[int]]]:
            pairs = None if some[0].pair is None else [row.pair for row in some]
            return dict(tokenizer([row.text for row in some], pairs, padding=False, verbose=False, **options))

        columns = tokenised(rows)
        longer = [i for i, ids in enumerate(columns["input_ids"]) if len(ids) > self.max_tokens]
        if longer:
            cut = tokenised([rows[i] for i in longer], truncation=True, max_length=self.max_tokens)
            for name, column in columns.items():
                for i, line in zip(longer, cut[name], strict=True):
                    column[i] = line
        # Not every tokenizer gives a mask, and without one padding would be read.
        columns["attention_mask"] = [[1] * len(ids) for ids in columns["input_ids"]]
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
        """Mean cross-entropy of a batch."""
        inputs, labels = collate(rows, indices, model.device)
        return loss(model.logits(inputs), labels)

    def mean_loss(self, model: Model, rows: Encoded, threads: int) -> float:
        """Mean cross-entropy of all rows."""
        return float(loss(evaluate(model, rows, threads), torch.tensor(rows.labels)))

    def measure(self, model: Model, rows: Encoded, threads: int, on_rows: OnRows | None = None) -> Measured:
        """Accuracy, and what stands beside it; ``per_row`` is 1 where the label is right."""
        logits = evaluate(model, rows, threads, on_rows)
        guesses = logits.argmax(-1).tolist()
        right = tuple(float(guess == label) for guess, label in zip(guesses, rows.labels, strict=True))
        return Measured(score(logits, rows.labels), right)

    def samples(self, rows: Sequence[Row], answers: Sequence[str], bare: Sequence[str]) -> list[dict[str, str]]:
        """None: a label is no text."""
        return []

    def naive(self, train: Sequence[Row], test: Sequence[Row]) -> float:
        """Accuracy of the majority class."""
        return majority_score(train, test)


def collate(rows: Encoded, indices: Sequence[int], device: torch.device) -> tuple[Inputs, Tensor]:
    """One padded batch: model inputs (b, longest) and labels (b,)."""
    return rows.pad(indices, device), torch.tensor([rows.labels[i] for i in indices], device=device)


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of (b, labels) logits, in float32."""
    return F.cross_entropy(logits.float(), labels)


@torch.inference_mode()
def evaluate(model: Model, rows: Encoded, threads: int, on_rows: OnRows | None = None) -> Tensor:
    """Logits of what is loaded, (n, labels) float32 on the CPU, in row order.

    Args:
        model: with a client's adapter and head loaded.
        rows: tokenised, at least one.
        threads: CPU threads.
        on_rows: called after every batch.
    """
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
    """Accuracy, macro-F1 over the labels that occur, Matthews correlation and mean loss of (n, labels) logits.

    The correlation is 0 where truth or prediction know one label alone: there is nothing to correlate. scikit-learn,
    which has all three, checks its arguments for longer than a small client's rows take to train on.
    """
    guesses, truth = logits.argmax(-1).numpy(), np.asarray(labels)
    size, rows = logits.shape[-1], len(truth)
    counts = np.bincount(truth * size + guesses, minlength=size * size).reshape(size, size)
    right, guessed, true = counts.diagonal(), counts.sum(0), counts.sum(1)
    occurs = guessed + true > 0
    spread = float(rows**2 - guessed @ guessed) * float(rows**2 - true @ true)
    return {
        "accuracy": float(right.sum() / rows),
        "macro_f1": float((2 * right[occurs] / (guessed + true)[occurs]).mean()),
        "mcc": float(rows * right.sum() - guessed @ true) / math.sqrt(spread) if spread else 0.0,
        "loss": float(loss(logits, torch.from_numpy(truth))),
    }


def majority_score(train: Sequence[Row], test: Sequence[Row]) -> float:
    """Accuracy on ``test`` of always giving the most frequent label of ``train``; the smaller label on a tie."""
    counts = np.bincount([row.label for row in train])
    majority = int(counts.argmax())
    return sum(row.label == majority for row in test) / len(test)
