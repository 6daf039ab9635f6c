"""F1 of sets of labels by hand, and their cells."""

import numpy as np
import pytest

from fedlease.core.confusion import cells_of
from fedlease.core.label_sets import cells_of_sets, is_of_sets, set_metrics, set_shares

TRUTH = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]], bool)
GUESSES = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 0, 0]], bool)
"""Label 0 is right twice and wrong once, label 1 is missed twice, label 2 is wrong once and no row has it."""


def test_cells_count_what_is_right_missed_and_wrong() -> None:
    cells = cells_of_sets(TRUTH, GUESSES)
    assert cells == [[0, 0, 2], [1, 3, 2], [3, 0, 1], [3, 2, 1], [3, 3, 4]]
    assert is_of_sets(cells, 3) and not is_of_sets(cells_of([0, 2], [1, 2]), 3)


def test_micro_and_macro_f1_by_hand() -> None:
    """Micro: 2 x 2 / (4 + 4). Macro: label 0 has 2 x 2 / (2 + 3) = .8, labels 1 and 2 have 0."""
    assert set_metrics(cells_of_sets(TRUTH, GUESSES), 3) == pytest.approx({"micro_f1": 0.5, "macro_f1": 0.8 / 3})
    nothing = np.zeros((2, 3), bool)
    assert set_metrics(cells_of_sets(nothing, nothing), 3) == {"micro_f1": 0.0, "macro_f1": 0.0}


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1"])
def test_shares_of_rows_are_those_of_leaving_each_out(metric: str) -> None:
    """Macro F1 is over the same labels, those that occur among all rows."""
    truth, guesses = np.vstack([TRUTH, TRUTH[::-1]]), np.vstack([GUESSES, GUESSES])
    whole = set_metrics(cells_of_sets(truth, guesses), 3)[metric]
    left = []
    for row in range(len(truth)):
        cells = cells_of_sets(np.delete(truth, row, 0), np.delete(guesses, row, 0))
        left.append(set_metrics(cells, 3)[metric])
    expected = [whole + (len(left) - 1) * (np.mean(left) - value) for value in left]
    found = set_shares(truth, guesses, metric)
    assert found == pytest.approx(expected) and np.mean(found) == pytest.approx(whole)
