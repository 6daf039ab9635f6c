"""The trimmed mean by hand: what is cut, what a client at a cut still counts, and what no few clients can do."""

import pytest
import torch
from torch import Tensor

from fedlease.core.aggregate import weighted_mean
from fedlease.core.seeds import generator
from fedlease.core.trimmed_mean import TrimmedMean


def states(*values: float) -> list[dict[str, Tensor]]:
    return [{"x": torch.tensor([value])} for value in values]


@pytest.mark.parametrize(
    ("trim", "values", "weights", "expected"),
    [
        # One of five is cut at each end: (2 + 3 + 4) / 3.
        (0.2, (9.0, 2.0, 3.0, 4.0, -100.0), (1, 1, 1, 1, 1), 3.0),
        # Half a client of four at each end: (0.5 x 1 + 2 + 3 + 0.5 x 8) / 3.
        (0.125, (8.0, 1.0, 3.0, 2.0), (1, 1, 1, 1), 9.5 / 3),
        # Masses .1, .3, .6 of values 1, 2, 10; a fifth is cut at each end: (0 x 1 + .2 x 2 + .4 x 10) / .6.
        (0.2, (10.0, 1.0, 2.0), (60, 10, 30), 4.4 / 0.6),
        # One client is its own mean, and two of equal weight keep their mean whatever is cut.
        (0.4, (7.0,), (3,), 7.0),
        (0.4, (1.0, 5.0), (2, 2), 3.0),
        # Almost everything is cut: the weighted median.
        (0.4999, (1.0, 2.0, 50.0), (1, 1, 1), 2.0),
    ],
)
def test_by_hand(trim: float, values: tuple[float, ...], weights: tuple[float, ...], expected: float) -> None:
    assert TrimmedMean(trim)(states(*values), weights)["x"].item() == pytest.approx(expected)


def test_without_trimming_it_is_the_weighted_mean_and_the_order_of_clients_does_not_matter() -> None:
    several = [{"b": torch.randn(4, 3, generator=generator(i, "b")), "a": torch.ones(2)} for i in range(5)]
    weights = [1.0, 2.0, 3.0, 4.0, 5.0]
    plain, trimmed = weighted_mean(several, weights), TrimmedMean(0.0)(several, weights)
    assert list(trimmed) == ["a", "b"] and trimmed["b"].dtype == torch.float32
    assert all(torch.allclose(plain[name], trimmed[name], atol=1e-6) for name in plain)
    mixed, back = TrimmedMean(0.15)(several, weights), TrimmedMean(0.15)(several[::-1], weights[::-1])
    assert all(torch.allclose(mixed[name], back[name], atol=1e-6) for name in mixed)


def test_clients_that_weigh_less_than_the_share_cannot_leave_the_range_of_the_others() -> None:
    honest = [{"x": torch.randn(100, generator=generator(i, "x"))} for i in range(9)]
    wrong = {"x": torch.full((100,), 1e6)}
    mean = TrimmedMean(0.1)([*honest, wrong], [1.0] * 10)["x"]
    values = torch.stack([state["x"] for state in honest])
    assert bool((mean <= values.amax(0)).all()) and bool((mean >= values.amin(0)).all())
    assert bool((weighted_mean([*honest, wrong], [1.0] * 10)["x"] > 1e4).all())


@pytest.mark.parametrize("trim", [-0.1, 0.5, float("nan")])
def test_a_share_out_of_range_is_named(trim: float) -> None:
    with pytest.raises(ValueError, match=r"trim must be in \[0, 0\.5\), received"):
        TrimmedMean(trim)(states(1.0), [1.0])


def test_states_that_do_not_fit_are_refused_as_by_every_mean() -> None:
    with pytest.raises(ValueError, match="these occur in only some"):
        TrimmedMean()([{"x": torch.ones(1)}, {"y": torch.ones(1)}], [1.0, 1.0])
