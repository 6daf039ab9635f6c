"""Gains with intervals: right numbers by hand, false alarms counted exactly, and few rows never certain."""

import numpy as np
import pytest
from scipy.stats import binom

from fedlease.core.intervals import paired_gain, unpaired_gain


def rows(right: int, wrong: int) -> list[float]:
    return [1.0] * right + [0.0] * wrong


def test_the_paired_interval_is_bonett_and_prices() -> None:
    # 20 rows, 6 that the first alone got right: p12 = 7/22, p21 = 1/22, difference 6/22,
    # standard error sqrt((8/22 - (6/22)^2) / 22) = 0.114665; times 1.959964 that is 0.224739.
    found = paired_gain([rows(16, 4)], [rows(10, 10)])
    assert found.difference == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((6 / 22 - 0.224739, 6 / 22 + 0.224739), abs=1e-5)


def test_clients_count_alike_and_rows_within_their_client() -> None:
    # +0.5 of two rows and 0 of eight: the mean over clients is 0.25, over rows it would be 0.1.
    found = paired_gain([[1, 0], [1] * 8], [[0, 0], [1] * 8])
    assert found.difference == pytest.approx(0.25)
    assert found.low < 0 < found.high


def test_swapping_the_runs_turns_the_interval_round() -> None:
    one, other = [rows(7, 3), rows(4, 6)], [rows(5, 5), rows(6, 4)]
    forth, back = paired_gain(one, other), paired_gain(other, one)
    assert (forth.difference, forth.low, forth.high) == pytest.approx((-back.difference, -back.high, -back.low))


def test_equal_rows_are_never_certain_and_ends_stay_in_range() -> None:
    same, opposite = paired_gain([[1, 1, 0]], [[1, 1, 0]]), paired_gain([[1]], [[0]])
    assert same.difference == 0 and same.low < 0 < same.high
    assert opposite.difference == 1 and -1 <= opposite.low < 0 < opposite.high <= 1


@pytest.mark.parametrize("count", [5, 20, 60, 300])
def test_no_more_false_alarms_than_it_says(count: int) -> None:
    """Exact, over all numbers of differing rows and of those among them that either run got right."""
    shares = np.array([[0.05], [0.2], [0.5]])
    likely = binom.pmf(np.arange(count + 1), count, shares)  # (shares of differing rows, numbers of them)
    wrong = np.zeros(len(shares))
    for differ in np.flatnonzero(likely.max(0) > 1e-6).tolist():
        splits = binom.pmf(np.arange(differ + 1), differ, 0.5)
        # The more rows one run alone got right, the farther is the interval from 0, and the other side mirrors it.
        for first in range(differ, differ // 2, -1):
            one, other = rows(first, count - first), [*rows(0, first), *rows(differ - first, count - differ)]
            found = paired_gain([one], [other])
            if found.low <= 0 <= found.high:
                break
            wrong += 2 * likely[:, differ] * splits[first]
    assert wrong.max() <= 0.053


def test_without_rows_the_interval_is_newcombes() -> None:
    # Newcombe 1998, table II, contrast (a): 56/70 less 48/80 is 0.2, interval 0.0524 to 0.3339 by method 10.
    found = unpaired_gain([(56 / 70, 70)], [(48 / 80, 80)])
    assert (found.difference, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_without_rows_the_mean_over_clients_narrows_by_the_root_of_their_number() -> None:
    one, four = (unpaired_gain([(0.8, 50)] * n, [(0.6, 50)] * n) for n in (1, 4))
    assert four.difference == pytest.approx(one.difference)
    assert four.high - four.difference == pytest.approx((one.high - one.difference) / 2)


@pytest.mark.parametrize("scores", [([], []), ([[]], [[]])])
def test_nothing_to_compare_is_refused(scores: tuple[list[list[float]], list[list[float]]]) -> None:
    with pytest.raises(ValueError, match="at least one client"):
        paired_gain(*scores)


def test_clients_or_rows_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        paired_gain([[1]], [[1], [0]])
    with pytest.raises(ValueError, match="broadcast"):
        paired_gain([np.ones(3)], [np.ones(2)])
