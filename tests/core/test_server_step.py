"""The server's own optimiser on single weights, by hand from Algorithm 2 of Reddi et al."""

import math

import pytest
import torch

from fedlease.core.server_step import Moments, ServerStep


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def twice(step: ServerStep) -> list[float]:
    """Two steps from 1: means 1 above, then 2 above what was sent."""
    first, moments = step(one(1.0), one(2.0), None)
    second, _ = step(first, first + 2, moments)
    return [float(first), float(second)]


def test_momentum_goes_the_last_step_once_more() -> None:
    # m: 1, then 0.5 x 1 + 2 = 2.5; from 1 by 0.1 x m.
    assert twice(ServerStep("momentum", lr=0.1, momentum=0.5)) == pytest.approx([1.1, 1.1 + 0.25])


@pytest.mark.parametrize(
    ("rule", "first", "second"),
    [
        # tau 0.5, so v begins at 0.25. adagrad: 0.25 + 1 and + 4.
        ("adagrad", 1.25, 5.25),
        # beta2 0.75: 0.75 x 0.25 + 0.25 x 1 = 0.4375; 0.75 x 0.4375 + 0.25 x 4 = 1.328125.
        ("adam", 0.4375, 1.328125),
        # v < d^2 both times: 0.25 + 0.25 x 1 = 0.5; 0.5 + 0.25 x 4 = 1.5.
        ("yogi", 0.5, 1.5),
    ],
)
def test_adaptive_rules_divide_by_what_they_remember_of_squares(rule: str, first: float, second: float) -> None:
    # beta1 0.5: m is 0.5 x 1 = 0.5, then 0.5 x 0.5 + 0.5 x 2 = 1.25.
    values = twice(ServerStep(rule, lr=0.1, momentum=0.5, beta2=0.75, tau=0.5))  # type: ignore[arg-type]
    a = 1 + 0.1 * 0.5 / (math.sqrt(first) + 0.5)
    assert values == pytest.approx([a, a + 0.1 * 1.25 / (math.sqrt(second) + 0.5)])


def test_yogi_forgets_large_squares_slowly() -> None:
    # v - d^2 > 0: 9 - 0.25 x 1; adam would have 0.75 x 9 + 0.25.
    _, after = ServerStep("yogi", beta2=0.75)(one(0.0), one(1.0), Moments(one(0.0), one(9.0)))
    assert after is not None and after.second is not None
    assert float(after.second) == 8.75


def test_a_learning_rate_of_1_without_momentum_is_plain_averaging_to_the_bit() -> None:
    old, mean = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    for rule, momentum in (("momentum", 0.0), ("none", 0.9)):
        step = ServerStep(rule, lr=1.0, momentum=momentum)  # type: ignore[arg-type]
        new, moments = step(1e6 * old, mean, None)
        assert torch.equal(new, mean)
        assert torch.equal(step(1e6 * old, mean, moments)[0], mean)
