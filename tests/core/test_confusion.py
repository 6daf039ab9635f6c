"""The scores of a confusion matrix, by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, precision_recall_fscore_support
from sklearn.metrics import confusion_matrix as reference

from fedlease.core.confusion import cells_of, class_metrics, confusion_matrix, per_class, row_shares

TRUTH = [0, 0, 0, 1, 1, 2]
GUESSES = [0, 0, 1, 1, 2, 1]


def test_only_pairs_that_occur_are_counted():
    assert cells_of(TRUTH, GUESSES) == [[0, 0, 2], [0, 1, 1], [1, 1, 1], [1, 2, 1], [2, 1, 1]]
    assert confusion_matrix(cells_of(TRUTH, GUESSES), 4).tolist() == [
        [2, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
    ]


def test_scores_of_every_class_are_those_by_hand():
    found = per_class(confusion_matrix(cells_of(TRUTH, GUESSES), 4))
    assert found.support == (3, 2, 1, 0) and found.predicted == (2, 3, 1, 0)
    assert found.precision == (1.0, 1 / 3, 0.0, None)
    assert found.recall == (2 / 3, 1 / 2, 0.0, None)
    # 2 x 2 / (3 + 2), 2 x 1 / (2 + 3), 0; the last class does not occur.
    assert found.f1 == (4 / 5, 2 / 5, 0.0, None)


def test_a_class_that_is_never_predicted_has_no_precision_and_an_f1_of_zero():
    found = per_class(confusion_matrix([[0, 0, 48], [1, 0, 2]], 2))
    assert (found.precision, found.recall, found.f1) == ((0.96, None), (1.0, 0.0), (96 / 98, 0.0))
    scores = class_metrics(confusion_matrix([[0, 0, 48], [1, 0, 2]], 2))
    assert scores == {"accuracy": 0.96, "macro_f1": pytest.approx(48 / 98), "mcc": 0.0}


def test_macro_f1_is_the_mean_of_the_classes_that_occur():
    counts = confusion_matrix(cells_of(TRUTH, GUESSES), 4)
    assert class_metrics(counts)["macro_f1"] == pytest.approx((4 / 5 + 2 / 5 + 0) / 3)


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_scikit_learn(seed):
    draw = np.random.default_rng(seed)
    truth, guesses = draw.integers(0, 5, 60).tolist(), draw.integers(0, 5, 60).tolist()
    counts = confusion_matrix(cells_of(truth, guesses), 5)
    assert (counts == reference(truth, guesses, labels=range(5))).all()
    assert class_metrics(counts) == pytest.approx(
        {
            "accuracy": accuracy_score(truth, guesses),
            "macro_f1": f1_score(truth, guesses, average="macro"),
            "mcc": matthews_corrcoef(truth, guesses),
        }
    )
    expected = precision_recall_fscore_support(truth, guesses, labels=range(5))
    found = per_class(counts)
    for ours, theirs in zip((found.precision, found.recall, found.f1, found.support), expected, strict=True):
        assert ours == pytest.approx(tuple(theirs))


def test_the_share_of_a_row_by_hand():
    """Truth 0 0 1, guesses 0 1 1: F1 of both classes is 2/3. Without the first row they are 0 and 2/3, without the
    second 1 and 1, without the third 2/3 and 0. So T = 2/3, T_i = 1/3, 1, 1/3 with mean 5/9, and T + 2 (5/9 - T_i)."""
    shares = row_shares([0, 0, 1], [0, 1, 1], 2, "macro_f1")
    assert shares == pytest.approx([2 / 3 + 4 / 9, 2 / 3 - 8 / 9, 2 / 3 + 4 / 9])
    assert sum(shares) / 3 == pytest.approx(2 / 3)


@pytest.mark.parametrize("metric", ["macro_f1", "mcc"])
def test_the_mean_of_the_shares_is_the_metric_and_their_spread_the_jackknifes(metric):
    draw = np.random.default_rng(3)
    truth, guesses = draw.integers(0, 3, 40).tolist(), draw.integers(0, 3, 40).tolist()
    shares = row_shares(truth, guesses, 3, metric)
    whole = class_metrics(confusion_matrix(cells_of(truth, guesses), 3))[metric]
    assert np.mean(shares) == pytest.approx(whole)
    left = [
        class_metrics(confusion_matrix(cells_of(truth[:i] + truth[i + 1 :], guesses[:i] + guesses[i + 1 :]), 3))[metric]
        for i in range(40)
    ]
    jackknife = 39 / 40 * sum((value - np.mean(left)) ** 2 for value in left)
    assert np.var(shares, ddof=1) / 40 == pytest.approx(jackknife)


def test_the_only_row_has_the_whole_metric_and_a_missed_class_stays_in_the_mean():
    assert row_shares([1], [1], 2, "macro_f1") == [1.0]
    # 48 right of class 0, 2 of class 1 missed: without a missed one F1 of 0 is 96/97, of 1 it stays 0.
    shares = row_shares([0] * 48 + [1] * 2, [0] * 50, 2, "macro_f1")
    assert np.mean(shares) == pytest.approx(48 / 98) and shares[-1] == shares[-2] < shares[0]
