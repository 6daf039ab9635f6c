"""Spread and paired intervals, on numbers whose answers are known."""

import math

import numpy as np
import pytest

from fedlease.experiments.statistics import RowScores, paired_difference, spread


def rows(**clients: list[int]) -> RowScores:
    return {client: np.array(values, dtype=float) for client, values in clients.items()}


def test_spread_is_mean_and_deviation_with_n_minus_one() -> None:
    # Deviations -1, 0, 1: sum of squares 2, divided by 2.
    found = spread([2.0, 3.0, 4.0])
    assert (found.mean, found.deviation, found.values) == (3.0, 1.0, (2.0, 3.0, 4.0))
    assert spread([0.5]).deviation is None


def test_the_mean_difference_is_that_of_the_headline() -> None:
    # Clients count alike whatever their rows: seed 1: (1/2 + 1/4) / 2 = 3/8; seed 2: (0 - 1/4) / 2 = -1/8; mean 1/8.
    first = [rows(a=[1, 1], b=[1, 0, 0, 0]), rows(a=[1, 0], b=[0, 0, 0, 0])]
    second = [rows(a=[1, 0], b=[0, 0, 0, 0]), rows(a=[0, 1], b=[0, 1, 0, 0])]
    found = paired_difference(first, second)
    assert found.mean == pytest.approx(1 / 8)
    assert found.low <= found.mean <= found.high and found.seeds == 2


def test_equal_results_differ_by_nothing() -> None:
    same = [rows(a=[1, 0, 1], b=[0, 0, 1])] * 3
    found = paired_difference(same, same)
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_a_difference_on_every_row_has_no_spread() -> None:
    found = paired_difference([rows(a=[1] * 9, b=[1] * 4)] * 2, [rows(a=[0] * 9, b=[0] * 4)] * 2)
    assert (found.mean, found.low, found.high) == pytest.approx((1, 1, 1), abs=1e-12)


def test_the_interval_of_one_seed_is_that_of_a_mean_of_rows() -> None:
    # One client, n rows, half of them gained: a proportion with standard error sqrt(1/4 / n), normal for large n.
    n = 400
    gained = [rows(a=[1, 0] * (n // 2))]
    found = paired_difference(gained, [rows(a=[0] * n)], draws=4000)
    half = 1.96 * math.sqrt(0.25 / n)
    assert found.low == pytest.approx(0.5 - half, abs=0.01)
    assert found.high == pytest.approx(0.5 + half, abs=0.01)


def test_seeds_that_disagree_widen_the_interval() -> None:
    n = 400
    half = [1, 0] * (n // 2)
    agreeing = paired_difference([rows(a=half)] * 2, [rows(a=[0] * n)] * 2)
    apart = paired_difference([rows(a=[1] * n), rows(a=[0] * n)], [rows(a=[0] * n)] * 2)
    assert agreeing.mean == apart.mean == 0.5
    # Both seeds drawn alike happens with probability 1/2: the interval reaches both ends.
    assert (apart.low, apart.high) == pytest.approx((0, 1), abs=1e-12)
    assert agreeing.high - agreeing.low < 0.15


def test_chance_of_rows_that_all_seeds_share_is_not_averaged_out() -> None:
    # The same gains on the same rows on nine seeds say no more than on one: standard error sqrt(1/4 / n), not a third.
    n, seeds = 400, 9
    gained, nothing = [rows(a=[1, 0] * (n // 2))] * seeds, [rows(a=[0] * n)] * seeds
    alone = 1.96 * math.sqrt(0.25 / n)
    for keys, half in (
        ([{"a": list(range(n))}] * seeds, alone),
        ([{"a": list(range(n * s, n * s + n))} for s in range(seeds)], alone / 3),
        (None, alone / 3),
    ):
        found = paired_difference(gained, nothing, keys, draws=4000)
        assert found.mean == pytest.approx(0.5)
        assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_rows_that_two_of_the_seeds_share_are_between() -> None:
    # Of 2 seeds the first half of the rows is shared: that half's share of the mean has twice the variance.
    n = 400
    gained, nothing = [rows(a=[1, 0] * (n // 2))] * 2, [rows(a=[0] * n)] * 2
    keys = [{"a": [*range(n // 2), *range(n * s, n * s + n // 2)]} for s in (1, 2)]
    found = paired_difference(gained, nothing, keys, draws=4000)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * math.sqrt(0.25 / n * (1 / 2 + 1 / 4)), rel=0.1)


def test_the_same_call_gives_the_same_interval() -> None:
    first, second = [rows(a=[1, 0, 1] * 101)], [rows(a=[1, 1, 0] * 101)]
    assert paired_difference(first, second) == paired_difference(first, second)
    few = {paired_difference(first, second, seed=seed, draws=20).low for seed in range(5)}
    assert len(few) > 1


def test_results_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="same seeds, received 1 and 2"):
        paired_difference([rows(a=[1])], [rows(a=[1])] * 2)
    for other in (rows(a=[1, 0]), rows(b=[1])):
        with pytest.raises(ValueError, match="same clients and test rows"):
            paired_difference([rows(a=[1])], [other])
    for keys in ({"a": [1, 2]}, {"b": [1]}):
        with pytest.raises(ValueError, match="rows must name every score's row"):
            paired_difference([rows(a=[1])], [rows(a=[0])], [keys])
