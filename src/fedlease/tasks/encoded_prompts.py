"""Tokenised prompts with their answers, their batches, and the loss on the answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlease.tasks.encoded import Encoded, Inputs

__all__ = ["IGNORED", "EncodedPrompts", "answer_loss", "collate"]

IGNORED = -100
"""Label of a token that the loss leaves out: padding, and every token of the prompt."""


@dataclass(frozen=True, eq=False)
class EncodedPrompts(Encoded):
    """Prompts with their answers at the end; ``labels`` is the number of answer tokens of each, end token included.

    Attributes:
        references: the answers as texts.
        tokenizer: made them, and reads what is written.
        shortened: answers that were cut, among them those without an end token.
    """

    references: tuple[str, ...] = ()
    tokenizer: Any = None
    shortened: int = 0

    def first(self, count: int) -> Self:
        """The first rows."""
        return replace(super().first(count), references=self.references[:count], shortened=0)

    def prompt_lengths(self) -> list[int]:
        """Tokens per prompt."""
        return [length - answer for length, answer in zip(self.lengths, self.labels, strict=True)]

    def questions(self, indices: Sequence[int], device: torch.device) -> Inputs:
        """Prompts alone, padded on the left."""
        lengths = self.prompt_lengths()
        return self.padded(indices, [lengths[i] for i in indices], device)


def collate(rows: Encoded, indices: Sequence[int], device: torch.device) -> tuple[Inputs, Tensor]:
    """One batch, padded on the left, so that all answers end together.

    Returns:
        Model inputs (b, longest), and the labels of the last tokens (b, longest answer): a token id, or
        :data:`IGNORED` where a shorter row has prompt or padding there.
    """
    inputs = rows.pad(indices, device)
    counts = [rows.labels[i] for i in indices]
    width = max(1, *counts)
    labels = inputs["input_ids"][:, -width:].clone()
    for line, count in enumerate(counts):
        labels[line, : width - count] = IGNORED
    return inputs, labels


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, in float32, of (b, n + 1, vocabulary) logits at the last tokens against (b, n) labels.

    A token is predicted from the place before it.
    """
    flat = logits[:, :-1].flatten(0, 1).float()
    return F.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED)
