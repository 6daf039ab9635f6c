"""Medians by hand, and what fewer than half of the clients cannot do to them."""

import math

import pytest
import torch
from torch import Tensor

from fedlease.core.aggregate import Mean
from fedlease.core.medians import geometric_median, median

EQUAL = [1.0] * 4


def states(*values: list[float]) -> list[dict[str, Tensor]]:
    return [{"a": torch.tensor(value)} for value in values]


def test_the_median_is_the_middle_of_every_value_and_of_two_middles_the_mean() -> None:
    odd = median(states([1.0, 9.0], [5.0, 2.0], [3.0, 4.0]), [1, 1, 1])
    assert odd["a"].tolist() == [3.0, 4.0]
    # 1, 3, 5, 100: (3 + 5) / 2.
    assert median(states([1.0], [100.0], [3.0], [5.0]), EQUAL)["a"].tolist() == [4.0]


def test_the_geometric_median_of_a_triangle_is_its_fermat_point() -> None:
    # Of an equilateral triangle that is the centre; of one with an angle of 120 degrees or more that corner.
    equilateral = states([0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2])
    assert geometric_median(equilateral, [1, 1, 1])["a"].tolist() == pytest.approx([0.5, math.sqrt(3) / 6], abs=2e-3)
    flat = states([-1.0, 0.1], [1.0, 0.1], [0.0, 0.0])
    assert geometric_median(flat, [1, 1, 1])["a"].tolist() == pytest.approx([0.0, 0.0], abs=1e-2)


@pytest.mark.parametrize("mean", [median, geometric_median])
def test_one_of_four_moves_a_median_no_farther_than_the_others_are_apart(mean: Mean) -> None:
    honest = states([0.9, 1.0], [1.0, 1.1], [1.1, 0.9])
    for lie in ([1e30, -1e30], [-10.0, 10.0], [0.0, 0.0]):
        found = mean([*honest, *states(lie)], [1.0, 1.0, 1.0, 1e12])["a"]
        assert bool(((found > 0.85) & (found < 1.15)).all()), lie


@pytest.mark.parametrize("mean", [median, geometric_median])
def test_equal_states_are_their_own_median_in_their_own_type(mean: Mean) -> None:
    same = [{"b": torch.tensor([1.5], dtype=torch.bfloat16), "a": torch.zeros(2, 3)}] * 3
    found = mean(same, [1.0, 2.0, 3.0])
    assert [*found] == ["a", "b"] and found["b"].dtype == torch.bfloat16
    assert found["b"].tolist() == [1.5] and not found["a"].any()
    with pytest.raises(ValueError, match="one weight per state, received 2 for 3"):
        mean(same, [1.0, 2.0])
