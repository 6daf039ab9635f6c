"""Bounds, samples and noise of differentially private training, with numbers by hand."""

import math

import pytest
import torch

from fedlease.core.row_noise import Amount, bounded_sum, clipped_apart, noisy_mean, poisson_batch, sampling, samplings
from fedlease.privacy.randomness import Secret, draws_of


def test_gradients_are_bounded_over_all_tensors_together() -> None:
    """Row 0 has length 5 = |(3, 0, 4)| and is scaled by 1/5; row 1 has length 0.5 and stays; row 2 has none."""
    one = torch.tensor([[3.0, 0.0], [0.3, 0.0], [1.0, math.nan]])
    two = torch.tensor([[[4.0]], [[0.4]], [[1.0]]])
    found = bounded_sum([one, two], 1.0)
    assert torch.allclose(found[0], torch.tensor([0.9, 0.0]))
    assert torch.allclose(found[1], torch.tensor([[1.2]]))


def test_one_row_more_moves_the_sum_by_the_bound_at_most() -> None:
    rows = [torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(1)) * 10, torch.ones(7, 5)]
    whole, without = bounded_sum(rows, 0.3), bounded_sum([part[1:] for part in rows], 0.3)
    moved = sum(float((a - b).square().sum()) for a, b in zip(whole, without, strict=True))
    assert math.sqrt(moved) == pytest.approx(0.3)


def test_adapters_routers_and_the_head_are_clipped_apart() -> None:
    names = ["m.q/B/1", "head/out.weight", "m.q/G", "m.q/A/1", "head/out.bias"]
    assert clipped_apart(names) == [["head/out.bias", "head/out.weight"], ["m.q/A/1", "m.q/B/1"], ["m.q/G"]]
    assert clipped_apart(["m.q/B/0"]) == [["m.q/B/0"]] and clipped_apart([]) == []


@pytest.mark.parametrize("seed", [0, None])
def test_noise_has_the_deviation_that_it_says(seed: int | None) -> None:
    """2 x 0.5 / 4 = 0.25; of a million numbers the deviation is known to one part in a thousand."""
    found = noisy_mean(torch.full((1000, 1000), 8.0), noise=2.0, clip=0.5, expected=4, draws=draws_of(seed, "noise"))
    assert float(found.mean()) == pytest.approx(2.0, abs=1e-3)
    assert float(found.std()) == pytest.approx(0.25, rel=0.004)
    assert float(((found - 2.0).abs() < 0.25).double().mean()) == pytest.approx(0.6827, abs=0.002)


@pytest.mark.parametrize("seed", [0, None])
def test_every_row_takes_part_by_itself(seed: int | None) -> None:
    """10,000 rows at 0.3: 3,000 on average, with a deviation of 46; two samples differ."""
    draws = draws_of(seed, "sample")
    one, two = (poisson_batch(10_000, 0.3, draws) for _ in range(2))
    assert abs(len(one) - 3000) < 250
    assert one != two
    assert poisson_batch(5, 1.0, draws) == [0, 1, 2, 3, 4]
    assert poisson_batch(5, 0.0, draws) == []


def test_steps_are_those_of_training_without_noise() -> None:
    """1,500 rows in batches of 64 are 24 steps a pass; fewer rows than a batch are one step with all of them."""
    assert sampling(1500, 64) == (64 / 1500, 24)
    assert sampling(10, 64) == (1.0, 1)


def test_steps_on_halves_count_once_at_the_rate_of_the_smaller_half() -> None:
    """101 rows: 11 steps a pass; halves of 51 and 50 rows, of which a row is in one: 6 steps, rates up to 10 / 50."""
    steps = Amount(3, halves=2).steps(101, 10)
    assert steps == Amount(33, halves=12)
    assert samplings(101, 10, steps) == ((10 / 101, 33), (0.2, 12))
    assert samplings(101, 10, Amount(5)) == ((10 / 101, 5),) and samplings(1, 10, Amount(halves=2)) == ((1.0, 2),)


@pytest.mark.parametrize(("one", "fits"), [(Amount(2, 1), True), (Amount(3, 0), False), (Amount(0, 2), False)])
def test_an_amount_is_within_another_where_both_kinds_are(one: Amount, fits: bool) -> None:
    assert (one <= Amount(2, 1)) is fits


def test_secret_numbers_are_never_the_end_of_the_scale() -> None:
    drawn = Secret().normal(100_000)
    assert bool(drawn.isfinite().all())
    assert not torch.equal(drawn, Secret().normal(100_000))
