"""Packed tokenised rows and prompts with answers, padded batches of them, and the loss on answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "IGNORED",
    "Encoded",
    "EncodedPrompts",
    "Inputs",
    "Packed",
    "answer_loss",
    "collate",
    "evaluation_batches",
    "on_device",
    "training_batches",
]

IGNORED = -100
"""Label of a token that the loss ignores: padding, and every token of the prompt."""

BUCKET = 8
"""Number of batches whose rows are sorted by length together; a larger number pads less but mixes rows less."""

Inputs = dict[str, Tensor]
"""Arguments of the base model's forward pass."""


@dataclass(frozen=True, eq=False)
class Packed:
    """Lists of token ids, one per row, with four bytes per token; indexed like a list of lists.

    Attributes:
        tokens: concatenated ids of all rows, (tokens,).
        starts: index of each row's first token, followed by the number of tokens, (rows + 1,).
    """

    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Self:
        """Packs lists."""
        starts = np.fromiter(accumulate(map(len, rows), initial=0), np.int64)
        return cls(np.fromiter(chain.from_iterable(rows), np.int32, int(starts[-1])), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> list[int]:
        row = range(len(self))[row]
        begin, end = self.starts[row : row + 2]
        ids: list[int] = self.tokens[begin:end].tolist()
        return ids

    def take(self, rows: Sequence[int]) -> Self:
        """Some rows, in the given order."""
        return self.of([self[row] for row in rows])

    @classmethod
    def joined(cls, parts: Sequence["Packed"]) -> Self:
        """Concatenates the rows of several packed lists."""
        before = accumulate((len(part.tokens) for part in parts), initial=0)
        starts = [part.starts[:-1] + offset for part, offset in zip(parts, before, strict=False)]
        ends = np.asarray([sum(len(part.tokens) for part in parts)])
        return cls(np.concatenate([part.tokens for part in parts]), np.concatenate([*starts, ends]))


@dataclass(frozen=True, eq=False)
class Encoded:
    """Tokenised rows, made once per client.

    Attributes:
        columns: model input, except the attention mask -> ids of every row, of the same length in all columns.
        labels: one target per row: a class index, or the number of answer tokens at the end.
        pad_id: padding of ``input_ids``; other columns are padded with 0.
        left: whether padding is on the left.
        truncated: number of rows that were cut.
    """

    columns: Mapping[str, Packed]
    labels: tuple[int, ...]
    pad_id: int
    left: bool
    truncated: int

    @classmethod
    def of(
        cls, columns: Mapping[str, Sequence[Sequence[int]]], labels: Sequence[int], pad_id: int, **more: Any
    ) -> Self:
        """Packs lists of ids, one per row and column."""
        packed = {name: Packed.of(column) for name, column in columns.items()}
        return cls(packed, tuple(labels), pad_id, **{"truncated": 0, **more})

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> list[int]:
        """Number of tokens per row."""
        lengths: list[int] = np.diff(self.columns["input_ids"].starts).tolist()
        return lengths

    @cached_property
    def label_counts(self) -> NDArray[np.int64]:
        """Number of rows per class index, (classes,)."""
        return np.bincount(self.labels)

    def take(self, rows: Sequence[int]) -> Self:
        """Some rows, in the given order."""
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        return replace(self, columns=columns, labels=tuple(self.labels[row] for row in rows), truncated=0)

    def first(self, count: int) -> Self:
        """At most the first ``count`` rows."""
        return self.take(range(min(count, len(self))))

    def pad(self, indices: Sequence[int], device: torch.device) -> Inputs:
        """Model inputs of a batch, (b, longest)."""
        starts = self.columns["input_ids"].starts
        return self.padded(indices, [int(starts[i + 1] - starts[i]) for i in indices], device)

    def questions(self, indices: Sequence[int], device: torch.device) -> Inputs:
        """Model inputs of a batch, without answers that are part of the text."""
        return self.pad(indices, device)

    def padded(self, indices: Sequence[int], lengths: Sequence[int], device: torch.device) -> Inputs:
        """The first ``lengths`` tokens of rows as one (b, longest) tensor per model input."""
        shape = (len(indices), max(lengths))
        counts = np.asarray(lengths)[:, None]
        behind = shape[1] - counts if self.left else 0
        places = np.arange(shape[1])[None, :] - behind  # of tokens in their rows, (b, longest)
        inside = (places >= 0) & (places < counts)
        arrays = {"attention_mask": inside.astype(np.int64)}
        for name, column in self.columns.items():
            array = np.full(shape, self.pad_id if name == "input_ids" else 0)
            begins = column.starts[np.asarray(indices)][:, None]
            array[inside] = column.tokens[(begins + places)[inside]]
            arrays[name] = array
        return {name: on_device(arrays[name], device) for name in (*self.columns, "attention_mask")}

    def followed_by(self, others: Sequence["Encoded"]) -> Self:
        """Concatenates the rows of several clients, with their targets."""
        parts: list[Encoded] = [self, *others]
        columns = {name: Packed.joined([part.columns[name] for part in parts]) for name in self.columns}
        return replace(self, columns=columns, labels=tuple(chain.from_iterable(part.labels for part in parts)))


@dataclass(frozen=True, eq=False)
class EncodedPrompts(Encoded):
    """Prompts followed by their answers; ``labels`` has the number of answer tokens, including the end token.

    Attributes:
        references: the answers as texts.
        tokenizer: the tokenizer that encoded them, and decodes generated answers.
        shortened: number of answers that were cut, including those that only lost their end token.
    """

    references: tuple[str, ...] = ()
    tokenizer: Any = None
    shortened: int = 0

    def take(self, rows: Sequence[int]) -> Self:
        """Some rows, in the given order."""
        return replace(super().take(rows), references=tuple(self.references[row] for row in rows), shortened=0)

    def prompt_lengths(self) -> list[int]:
        """Number of tokens per prompt."""
        return [length - answer for length, answer in zip(self.lengths, self.labels, strict=True)]

    def questions(self, indices: Sequence[int], device: torch.device) -> Inputs:
        """Model inputs of prompts without answers, padded on the left."""
        lengths = self.prompt_lengths()
        return self.padded(indices, [lengths[i] for i in indices], device)


def collate(rows: Encoded, indices: Sequence[int], device: torch.device) -> tuple[Inputs, Tensor]:
    """One batch, padded on the left, so that all answers end at the last position.

    Returns:
        Model inputs (b, longest), and the labels of the last tokens (b, longest answer): token ids of answers, and
        :data:`IGNORED` at other positions.
    """
    inputs = rows.pad(indices, device)
    counts = np.asarray([rows.labels[i] for i in indices])
    width = max(1, int(counts.max()))
    before = np.arange(width)[None, :] < width - counts[:, None]
    return inputs, inputs["input_ids"][:, -width:].masked_fill(on_device(before, device), IGNORED)


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copies an array to a device as a tensor, without waiting for the device's pending computations."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def answer_loss(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Mean cross-entropy, in float32, of logits at the last tokens, (b, n + 1, vocabulary), against labels, (b, n).

    The logits at a position predict the next token. With the ``reduction`` ``none``, it is that of every token, (b n,).
    """
    flat = logits[:, :-1].flatten(0, 1).float()
    return F.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction=reduction)


def training_batches(lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> list[list[int]]:
    """Batches of one epoch: every row once, with rows of similar length together, and batches in random order."""
    order = torch.randperm(len(lengths), generator=generator).tolist()
    batches: list[list[int]] = []
    for start in range(0, len(order), batch_size * BUCKET):
        bucket = sorted(order[start : start + batch_size * BUCKET], key=lambda i: lengths[i])
        batches.extend(bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def evaluation_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Batches of rows sorted by length; equal lengths stay in row order."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
