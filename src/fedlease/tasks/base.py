"""What a client optimises and how it is scored: the contract of a task, over the one resident model."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from fedlease.core.codec import serialisable
from fedlease.data.faults import where
from fedlease.data.federation import Row

__all__ = ["Encoded", "Inputs", "Measured", "Model", "OnRows", "Task", "padded", "row_fault"]

Inputs = dict[str, Tensor]
"""Arguments of the base model's forward pass."""

OnRows = Callable[[int, int], None]
"""Receives rows done and rows in total."""


class Model(Protocol):
    """What a task computes with: the base model with one client's adapter and head in place."""

    device: torch.device

    def logits(self, inputs: Inputs, last: int | None = None) -> Tensor:
        """Of a classifier (b, labels); of a language model (b, tokens, vocabulary), of the ``last`` tokens only."""

    def generate(self, inputs: Inputs, **options: Any) -> Tensor:
        """Token ids of prompt and continuation, (b, tokens)."""

    def answering(self, questions: Inputs) -> AbstractContextManager[None]:
        """While it is open, mixtures that weigh whole inputs weigh these, not what follows them."""

    def for_scoring(self) -> None:
        """Switches dropout off."""


@dataclass(frozen=True)
class Encoded:
    """Tokenised rows, made once per client.

    Attributes:
        columns: model input -> one list of ids per row, not padded.
        labels: what the loss compares with, one per row: a class index, or the number of answer tokens at the end.
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

    def first(self, count: int) -> Self:
        """The first rows."""
        columns = {name: column[:count] for name, column in self.columns.items()}
        return replace(self, columns=columns, labels=self.labels[:count], truncated=0)

    def pad(self, indices: Sequence[int], device: torch.device) -> Inputs:
        """Model inputs of a batch, (b, longest)."""
        return padded({n: [c[i] for i in indices] for n, c in self.columns.items()}, self.padding, self.left, device)

    def questions(self, indices: Sequence[int], device: torch.device) -> Inputs:
        """Model inputs of a batch without the answers, where answers are part of the text."""
        return self.pad(indices, device)


def row_fault(row: Row, rule: str) -> str:
    """A fault of a row in words: where it stands, or how it begins, and what is wrong with it."""
    return f"{reprlib.repr(row.text) if row.place is None else where(*row.place)}: {rule}"


def padded(
    columns: Mapping[str, Sequence[Sequence[int]]], padding: Mapping[str, int], left: bool, device: torch.device
) -> Inputs:
    """Lists of ids as one (b, longest) tensor per model input."""
    width = max(len(ids) for ids in columns["input_ids"])
    inputs = {}
    for name, column in columns.items():
        batch = np.full((len(column), width), padding[name], dtype=np.int64)
        for line, ids in enumerate(column):
            start = width - len(ids) if left else 0
            batch[line, start : start + len(ids)] = ids
        inputs[name] = torch.from_numpy(batch).to(device)
    return inputs


@serialisable
@dataclass(frozen=True)
class Measured:
    """How a model does on a client's rows.

    Attributes:
        metrics: name -> mean over the rows; higher is better, but for ``loss``.
        per_row: the headline metric of every row, in row order; comparisons are paired by it.
        answers: what the model said, in row order; empty where that is a label.
    """

    metrics: Mapping[str, float]
    per_row: tuple[float, ...]
    answers: tuple[str, ...] = ()


class Task(Protocol):
    """A kind of learning problem. Implementations are frozen dataclasses of their parameters."""

    @property
    def name(self) -> str:
        """The value of the setting ``task``."""

    @property
    def metric(self) -> str:
        """The headline metric, one of those that :meth:`measure` gives."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that :meth:`measure` gives for any rows."""

    @property
    def extra_metrics(self) -> tuple[str, ...]:
        """Metrics that it gives for some rows alone."""

    @property
    def peft_type(self) -> str:
        """PEFT's name for it."""

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> Encoded:
        """Tokenises rows; what is longer than the limit is cut and counted."""

    def warnings(self, encoded: Sequence[Encoded]) -> list[str]:
        """Plain sentences about what was cut."""

    def batch_loss(self, model: Model, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """The training loss of a batch, a scalar with gradients."""

    def mean_loss(self, model: Model, rows: Encoded, threads: int) -> float:
        """Mean loss over all rows, without gradients."""

    def measure(self, model: Model, rows: Encoded, threads: int, on_rows: OnRows | None = None) -> Measured:
        """Scores what is loaded on rows whose answers are known."""

    def samples(self, rows: Sequence[Row], answers: Sequence[str], bare: Sequence[str]) -> list[dict[str, str]]:
        """A few rows with their reference, the untrained model's answer and this one's; empty where none are kept."""

    def naive(self, train: Sequence[Row], test: Sequence[Row]) -> float:
        """Headline metric on ``test`` of always giving the most frequent answer of ``train``."""
