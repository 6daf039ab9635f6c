"""Spread and paired intervals, on numbers whose answers are known."""

import math

import numpy as np
import pytest

from fedlease.core.seeds import derive
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
    # One client, n rows, half of them gained: a proportion with standard error sqrt(1/4 / (n - 1)).
    n = 400
    found = paired_difference([rows(a=[1, 0] * (n // 2))], [rows(a=[0] * n)])
    half = 1.959964 * math.sqrt(0.25 / (n - 1))
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


def test_the_interval_of_two_seeds_is_student_s() -> None:
    # Differences 0.2 and 0.4 without any spread of rows: mean 0.3, s = sqrt(0.02), s / sqrt(2) = 0.1; t(1) = 12.706.
    first = [{"a": np.full(50, 0.2)}, {"a": np.full(50, 0.4)}]
    nothing = [{"a": np.zeros(50)}] * 2
    found = paired_difference(first, nothing)
    assert found.mean == pytest.approx(0.3)
    # 0.3 + 1.2706 is cut to 1: a difference of scores cannot leave [-1, 1].
    assert (found.low, found.high) == pytest.approx((0.3 - 1.2706, 1.0), abs=1e-4)
    third = paired_difference([*first, {"a": np.full(50, 0.3)}], [*nothing, nothing[0]])
    # s = 0.1, s / sqrt(3) = 0.057735; t(2) = 4.30265.
    assert (third.low, third.high) == pytest.approx((0.3 - 0.248414, 0.3 + 0.248414), abs=1e-5)


def test_seeds_that_agree_are_no_surer_than_their_rows() -> None:
    # Both seeds differ by exactly 1/2 on rows of their own: s = 0, and 2 n rows have standard error sqrt(1/8 / (n-1)).
    n = 400
    found = paired_difference([rows(a=[1, 0] * (n // 2))] * 2, [rows(a=[0] * n)] * 2)
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * math.sqrt(0.125 / (n - 1)), abs=1e-6)


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
        found = paired_difference(gained, nothing, keys)
        assert found.mean == pytest.approx(0.5)
        assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.01)


def test_rows_that_two_of_the_seeds_share_are_between() -> None:
    # Of 2 seeds the first half of the rows is shared: that half's share of the mean has twice the variance.
    n = 400
    gained, nothing = [rows(a=[1, 0] * (n // 2))] * 2, [rows(a=[0] * n)] * 2
    keys = [{"a": [*range(n // 2), *range(n * s, n * s + n // 2)]} for s in (1, 2)]
    found = paired_difference(gained, nothing, keys)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * math.sqrt(0.25 / n * (1 / 2 + 1 / 4)), rel=0.01)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("deviation", [0.02, 0.04])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_false_alarms_are_as_rare_as_the_interval_says(seeds: int, deviation: float, shared: bool) -> None:
    """Without a true difference 95 % intervals leave out zero in at most 7 % of 400 federations.

    Eight clients of 150 test rows; on a quarter of the rows one method is right and the other is not; seeds shift all
    clients by 2 or 4 points (standard deviation). A rate of 5 % gives more than 7.9 % of 400 with probability 0.5 %.
    """
    rng = np.random.default_rng(derive(0, "alarms", seeds, deviation, shared))
    clients, count, alarms, trials = 8, 150, 0, 400
    keys = [{str(c): [(c, i) for i in range(count)] for c in range(clients)}] * seeds
    zeros = [{str(c): np.zeros(count) for c in range(clients)}] * seeds
    for _ in range(trials):
        drawn = rng.choice([-1.0, 0.0, 1.0], p=[0.125, 0.75, 0.125], size=(seeds, clients, count))
        if shared:
            # Half of a row's luck is its own, the same on every seed.
            drawn = np.where(rng.random(drawn.shape) < 0.5, drawn, drawn[:1])
        drawn += rng.normal(0, deviation, size=(seeds, 1, 1))
        first = [{str(c): drawn[s, c] for c in range(clients)} for s in range(seeds)]
        found = paired_difference(first, zeros, keys if shared else None)
        alarms += not found.low <= 0 <= found.high
    assert alarms / trials <= 0.07


def test_results_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="same seeds, received 1 and 2"):
        paired_difference([rows(a=[1])], [rows(a=[1])] * 2)
    for other in (rows(a=[1, 0]), rows(b=[1])):
        with pytest.raises(ValueError, match="same clients and test rows"):
            paired_difference([rows(a=[1])], [other])
    for keys in ({"a": [1, 2]}, {"b": [1]}):
        with pytest.raises(ValueError, match="rows must name every score's row"):
            paired_difference([rows(a=[1])], [rows(a=[0])], [keys])
