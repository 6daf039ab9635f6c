"""Correlations against scipy's, and what every row adds against leaving it out."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from fedlease.core.correlation import pearson, pearson_without, spearman, spearman_without
from fedlease.core.label_sets import centred_shares

RNG = np.random.default_rng(0)
TIED = [(RNG.integers(0, 5, n).astype(float), RNG.normal(size=n).round(1)) for n in (3, 4, 7, 20)]


@pytest.mark.parametrize(("one", "two"), TIED)
def test_both_are_scipys_with_and_without_each_row(one: np.ndarray, two: np.ndarray) -> None:  # type: ignore[type-arg]
    for ours, without, theirs in ((pearson, pearson_without, pearsonr), (spearman, spearman_without, spearmanr)):

        def scipys(x: np.ndarray, y: np.ndarray, theirs=theirs) -> float:  # type: ignore[no-untyped-def, type-arg]
            return float(theirs(x, y)[0]) if len({*x}) > 1 and len({*y}) > 1 else 0.0

        assert ours(one, two) == pytest.approx(scipys(one, two))
        expected = [scipys(np.delete(one, i), np.delete(two, i)) for i in range(len(one))]
        assert without(one, two).tolist() == pytest.approx(expected, abs=1e-9)


def test_what_does_not_vary_correlates_with_nothing() -> None:
    flat, rising = np.full(6, 0.1), np.arange(6.0)
    assert pearson(flat, rising) == spearman(rising, flat) == 0.0
    assert spearman_without(np.array([1.0, 2.0]), np.array([2.0, 1.0])).tolist() == [0.0, 0.0], "one row is left"


def test_ranks_know_no_units_and_whole_orders_are_one() -> None:
    rising = np.array([1.0, 2.0, 3.0, 4.0])
    assert [spearman(rising, rising**3), spearman(rising, -rising)] == pytest.approx([1.0, -1.0])


def test_shares_have_the_metric_as_their_mean_and_the_jackknifes_spread() -> None:
    """Without row i the metric is .5, .7 or .9, on average .7: the shares are .6 + 2 (.7 - .5) = 1, .6 and .2."""
    assert centred_shares(0.6, [0.5, 0.7, 0.9]) == pytest.approx([1.0, 0.6, 0.2])
    assert centred_shares(0.6, [0.0]) == [0.6]
