"""Classification: a text or a pair of texts, one label of the client's own list."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedlease.data.federation import Row

__all__ = ["METRIC", "Encoded", "collate", "encode", "loss", "majority_score", "score"]

METRIC = "accuracy"
"""The headline metric."""


@dataclass(frozen=True)
class Encoded:
    """Tokenised rows, made once per client.

    Attributes:
        columns: model input -> one list of ids per row, not padded.
        labels: one per row.
        padding: model input -> value that pads it.
        left: whether padding goes to the left.
        truncated: rows that were longer than the limit.
    """

    columns: Mapping[str, Sequence[Sequence[int]]]
    labels: tuple[int, ...]
    padding: Mapping[str, int]
    left: bool
    truncated: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> list[int]:
        """Tokens per row."""
        return [len(ids) for ids in self.columns["input_ids"]]


def encode(rows: Sequence[Row], tokenizer: Any, max_tokens: int) -> Encoded:
    """Tokenises rows, cutting on the right what exceeds ``max_tokens``; of a pair, the longer text first."""
    padding = {"input_ids": int(tokenizer.pad_token_id), "attention_mask": 0, "token_type_ids": 0}
    if not rows:
        return Encoded({"input_ids": []}, (), padding, False, 0)
    texts = [row.text for row in rows]
    pairs = [row.pair or "" for row in rows] if any(row.pair is not None for row in rows) else None
    encoding = tokenizer(texts, pairs, truncation=True, max_length=max_tokens, padding=False)
    truncated = sum(bool(item.overflowing) for item in encoding.encodings or ())
    columns = {name: values for name, values in encoding.items() if name in padding}
    labels = tuple(row.label for row in rows)
    return Encoded(columns, labels, padding, tokenizer.padding_side == "left", truncated)


def collate(rows: Encoded, indices: Sequence[int], device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """One padded batch: model inputs (b, longest) and labels (b,)."""
    width = max(len(rows.columns["input_ids"][i]) for i in indices)
    inputs = {}
    for name, column in rows.columns.items():
        batch = np.full((len(indices), width), rows.padding[name], dtype=np.int64)
        for line, i in enumerate(indices):
            ids = column[i]
            start = width - len(ids) if rows.left else 0
            batch[line, start : start + len(ids)] = ids
        inputs[name] = torch.from_numpy(batch).to(device)
    labels = torch.tensor([rows.labels[i] for i in indices], device=device)
    return inputs, labels


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of (b, labels) logits, in float32."""
    return F.cross_entropy(logits.float(), labels)


def score(logits: Tensor, labels: Sequence[int]) -> dict[str, float]:
    """Accuracy, macro-F1 over the labels that occur, Matthews correlation and mean loss of (n, labels) logits.

    The correlation is 0 where truth and prediction know one label between them: there is nothing to correlate.
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    predicted = logits.argmax(-1).tolist()
    truth = list(labels)
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0.0)),
        "mcc": float(matthews_corrcoef(truth, predicted)) if len({*truth, *predicted}) > 1 else 0.0,
        "loss": float(loss(logits, torch.tensor(truth))),
    }


def majority_score(train: Sequence[Row], test: Sequence[Row]) -> float:
    """Accuracy on ``test`` of always giving the most frequent label of ``train``; the smaller label on a tie."""
    counts = np.bincount([row.label for row in train])
    majority = int(counts.argmax())
    return sum(row.label == majority for row in test) / len(test)
