"""Which rows form a batch: of similar length, so that little is spent on padding."""

from collections.abc import Sequence

import torch

__all__ = ["evaluation_batches", "training_batches"]

BUCKET = 8
"""Batches whose rows are sorted by length together: larger pads less and mixes less."""


def training_batches(lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> list[list[int]]:
    """One epoch: every row once, shuffled, rows of similar length together, batches in random order."""
    order = torch.randperm(len(lengths), generator=generator).tolist()
    batches: list[list[int]] = []
    for start in range(0, len(order), batch_size * BUCKET):
        bucket = sorted(order[start : start + batch_size * BUCKET], key=lambda i: lengths[i])
        batches.extend(bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def evaluation_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """A pure function of the rows: sorted by length, equal lengths in row order."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
