"""The common part of tasks with a head on a text or a pair of texts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedlease.config.data import ColumnSettings
from fedlease.core.wording import counted
from fedlease.data.faults import Faults
from fedlease.data.federation import Row
from fedlease.data.reading.examples import read_inputs
from fedlease.data.reading.rows import Table
from fedlease.tasks.base import BATCH, UNSCALED, Measured, Model, OnRows, Scale, StackedClients, add_row_fault
from fedlease.tasks.encoded import Encoded, evaluation_batches
from fedlease.tasks.stacking import of_rows

__all__ = ["OutputTask", "Texts", "evaluate"]

EVALUATION_BATCH = 64
COLUMNS = ("input_ids", "token_type_ids")
"""Inputs from the tokenizer that are kept; the attention mask follows from the lengths."""


@dataclass(frozen=True)
class Texts:
    """Tokenises texts and pairs of texts.

    Attributes:
        max_tokens: longer rows are cut on the right, of a pair the longer text first.
    """

    max_tokens: int

    def encode(self, rows: Sequence[Row], labels: Sequence[int], tokenizer: Any) -> Encoded:
        """Tokenises rows, each as if it were alone.

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
        pad, left = int(tokenizer.pad_token_id), tokenizer.padding_side == "left"
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
        """A sentence if rows were cut."""
        cut, rows = sum(part.truncated for part in encoded), sum(map(len, encoded))
        if not cut:
            return []
        verbs = ("is", "was") if cut == 1 else ("are", "were")
        of_all = f"{cut} of {counted(rows, 'row')}"
        return [f"{of_all} {verbs[0]} longer than data.max_tokens = {self.max_tokens} and {verbs[1]} cut"]


class OutputTask(ABC):
    """The part of a task with a head that does not depend on the meaning of the head's outputs.

    Attributes:
        max_tokens: longer rows are cut on the right, the longer text of a pair first.
    """

    max_tokens: int
    score_rounds: ClassVar[bool] = True
    num_samples: ClassVar[int] = 0

    @abstractmethod
    def measured(self, outputs: Tensor, rows: Encoded) -> Measured:
        """Scores outputs (n, labels)."""

    @abstractmethod
    def read_outputs(self, outputs: Tensor, labels: Sequence[str], scale: Scale = UNSCALED) -> list[dict[str, Any]]:
        """Predictions from outputs (n, labels)."""

    @abstractmethod
    def mean_loss(self, model: Model, rows: Encoded, threads: int) -> float:
        """Mean loss over all rows, without gradients."""

    def warnings(self, encoded: Sequence[Encoded]) -> list[str]:
        """A sentence if rows were cut."""
        return Texts(self.max_tokens).warnings(encoded)

    def row_shares(self, rows: Encoded, indices: Sequence[int]) -> list[float]:
        """The same share for every row."""
        return [1 / len(indices)] * len(indices)

    def predict(
        self, model: Model, rows: Encoded, labels: Sequence[str], threads: int, on_rows: OnRows | None = None
    ) -> list[dict[str, Any]]:
        """Predictions for rows, see :meth:`read_outputs`."""
        return self.read_outputs(evaluate(model, rows, threads, on_rows), labels)

    def measure(self, model: Model, rows: Encoded, threads: int, on_rows: OnRows | None = None) -> Measured:
        """The metrics, and the share of every row in the headline."""
        return self.measured(evaluate(model, rows, threads, on_rows), rows)

    def measure_stacked(self, model: StackedClients, clients: Sequence[Encoded], threads: int) -> list[Measured]:
        """The metrics of every client."""
        outputs = evaluate_stacked(model, clients, threads)
        return [self.measured(own, rows) for own, rows in zip(outputs, clients, strict=True)]

    def apart_and_together(self, model: Model, rows: Encoded) -> dict[str, tuple[Tensor, Tensor]]:
        """Outputs of every row alone and in one batch."""
        everyone = range(len(rows))
        alone = torch.cat([model.logits(rows.pad([i], model.device)) for i in everyone])
        return {BATCH: (alone.float(), model.logits(rows.pad(everyone, model.device)).float())}

    def samples(self, rows: Sequence[Row], answers: Sequence[str], bare: Sequence[str]) -> list[dict[str, str]]:
        """No samples, since heads do not predict texts."""
        return []

    def read_inputs(self, table: Table, columns: ColumnSettings, faults: Faults, *, pairs: bool | None) -> list[Row]:
        """Texts or pairs of texts, without answers."""
        return read_inputs(table, columns, faults, pairs=pairs)


@torch.inference_mode()
def evaluate(model: Model, rows: Encoded, threads: int, on_rows: OnRows | None = None) -> Tensor:
    """Outputs of the head that is loaded, (n, outputs) float32 on the CPU, in row order."""
    torch.set_num_threads(threads)
    model.for_scoring()
    parts, order = [], []
    for batch in evaluation_batches(rows.lengths, EVALUATION_BATCH):
        parts.append(model.logits(rows.pad(batch, model.device)).float().cpu())
        order.extend(batch)
        if on_rows is not None:
            on_rows(len(order), len(rows))
    outputs = torch.cat(parts)
    return torch.empty_like(outputs).index_copy_(0, torch.tensor(order), outputs)


def evaluate_stacked(model: StackedClients, clients: Sequence[Encoded], threads: int) -> list[Tensor]:
    """Outputs for each of several clients, as of :func:`evaluate`; the client with the most rows comes first."""
    torch.set_num_threads(threads)

    def outputs(rows: Encoded, indices: Sequence[int]) -> list[Tensor]:
        return list(model.logits(rows.pad(indices, model.device)).float().cpu())

    found = of_rows(model, clients, lambda rows: evaluation_batches(rows.lengths, EVALUATION_BATCH), outputs)
    return [torch.stack(own)[:, :labels] for own, labels in zip(found, model.num_labels, strict=True)]
