"""Batches: every row once, of similar lengths, the same for the same seed."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlease.tasks.encoded import evaluation_batches, training_batches


@given(st.lists(st.integers(1, 100), min_size=1, max_size=200), st.integers(1, 17), st.integers(0, 5))
def test_every_row_is_in_exactly_one_batch(lengths: list[int], size: int, seed: int) -> None:
    batches = training_batches(lengths, size, torch.Generator().manual_seed(seed))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)
    assert training_batches(lengths, size, torch.Generator().manual_seed(seed)) == batches
    again = evaluation_batches(lengths, size)
    assert sorted(i for batch in again for i in batch) == list(range(len(lengths)))
    assert [lengths[i] for batch in again for i in batch] == sorted(lengths)


def padding(lengths: list[int], batches: list[list[int]]) -> float:
    """Share of the tokens of all batches that are padding."""
    return 1 - sum(lengths) / sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)


def test_buckets_pad_less_than_random_batches() -> None:
    lengths = [1 + (i * 37) % 90 for i in range(512)]
    bucketed = padding(lengths, training_batches(lengths, 16, torch.Generator().manual_seed(0)))
    plain = [list(range(i, i + 16)) for i in range(0, 512, 16)]
    assert bucketed < 0.15 < padding(lengths, plain)
    assert padding(lengths, evaluation_batches(lengths, 16)) < 0.05
