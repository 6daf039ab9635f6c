"""Tokenised rows, packed, and the padded batches made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Encoded", "Inputs"]

Inputs = dict[str, Tensor]
"""Arguments of the base model's forward pass."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Tokenised rows, made once per client.

    Attributes:
        columns: model input but the attention mask -> the ids of all rows one after the other, int32 (tokens,).
        starts: place of each row's first token and, last, the number of tokens, (rows + 1,).
        labels: what the loss compares with, one per row: a class index, or the number of answer tokens at the end.
        pad_id: pads ``input_ids``; other columns are padded with 0.
        left: whether padding goes to the left.
        truncated: rows that were longer than the limit.
    """

    columns: Mapping[str, NDArray[np.int32]]
    starts: NDArray[np.int64]
    labels: tuple[int, ...]
    pad_id: int
    left: bool
    truncated: int

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Sequence[Sequence[int]]],
        labels: Sequence[int],
        pad_id: int,
        *,
        left: bool,
        **more: Any,
    ) -> Self:
        """Packs lists of ids, one per row and column, all columns of one length per row."""
        starts = np.fromiter(accumulate(map(len, columns["input_ids"]), initial=0), np.int64)
        packed = {
            name: np.fromiter(chain.from_iterable(column), np.int32, int(starts[-1]))
            for name, column in columns.items()
        }
        return cls(packed, starts, tuple(labels), pad_id, left, **{"truncated": 0, **more})

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> list[int]:
        """Tokens per row."""
        lengths: list[int] = np.diff(self.starts).tolist()
        return lengths

    def ids(self, index: int) -> list[int]:
        """The token ids of one row."""
        ids: list[int] = self.columns["input_ids"][self.starts[index] : self.starts[index + 1]].tolist()
        return ids

    def first(self, count: int) -> Self:
        """The first rows."""
        starts = self.starts[: count + 1]
        columns = {name: column[: starts[-1]] for name, column in self.columns.items()}
        return replace(self, columns=columns, starts=starts, labels=self.labels[:count], truncated=0)

    def pad(self, indices: Sequence[int], device: torch.device) -> Inputs:
        """Model inputs of a batch, (b, longest)."""
        return self.padded(indices, [int(self.starts[i + 1] - self.starts[i]) for i in indices], device)

    def questions(self, indices: Sequence[int], device: torch.device) -> Inputs:
        """Model inputs of a batch without the answers, where answers are part of the text."""
        return self.pad(indices, device)

    def padded(self, indices: Sequence[int], lengths: Sequence[int], device: torch.device) -> Inputs:
        """The first ``lengths`` tokens of rows as one (b, longest) tensor per model input."""
        shape = (len(indices), max(lengths))
        arrays = {name: np.full(shape, self.pad_id if name == "input_ids" else 0) for name in self.columns}
        mask = arrays["attention_mask"] = np.zeros(shape, np.int64)
        for line, (index, length) in enumerate(zip(indices, lengths, strict=True)):
            begin = self.starts[index]
            place = slice(shape[1] - length, None) if self.left else slice(length)
            mask[line, place] = 1
            for name, column in self.columns.items():
                arrays[name][line, place] = column[begin : begin + length]
        return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
