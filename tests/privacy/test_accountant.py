"""What the accountant says is held to closed forms and to published numbers."""

import math
import sys
from typing import Any

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from fedlease.errors import ConfigError
from fedlease.privacy import accountant
from fedlease.privacy.accountant import check_accountant, epsilon_of, noise_for


def of_gaussian(deviation: float, delta: float) -> float:
    """Epsilon of one release with Gaussian noise, exactly (Balle and Wang, ICML 2018, theorem 8, sensitivity 1)."""

    def beyond(epsilon: float) -> float:
        half, share = 0.5 / deviation, epsilon * deviation
        return float(norm.cdf(half - share) - math.exp(epsilon) * norm.cdf(-half - share)) - delta

    return float(brentq(beyond, 0, 100))


def test_without_sampling_it_is_the_closed_form() -> None:
    """16 steps with noise 4 are one with noise 4 / sqrt 16 = 1."""
    exact = of_gaussian(1.0, 1e-5)
    assert exact == pytest.approx(4.377, abs=1e-3)
    assert exact <= epsilon_of(4.0, ((1.0, 16),), 1e-5) <= exact + 0.02


def test_steps_of_two_kinds_add_up_in_any_order() -> None:
    """9 + 16 steps with noise 5, in two parts."""
    found = epsilon_of(5.0, ((1.0, 9), (1.0, 16)), 1e-5)
    assert found == pytest.approx(of_gaussian(1.0, 1e-5), abs=0.02)
    assert epsilon_of(5.0, ((1.0, 16), (1.0, 9)), 1e-5) == pytest.approx(found, abs=1e-3)


def test_it_is_below_the_published_bound_of_the_moments_accountant() -> None:
    """Abadi et al. 2016, section 3.2: rate 0.01, noise 4, 10,000 steps, delta 1e-5 have epsilon 1.26 by moments, 9.34
    by strong composition; the bound used here is tighter, and not by more than a third."""
    assert 1.26 * 2 / 3 < epsilon_of(4.0, ((0.01, 10_000),), 1e-5) < 1.26


@pytest.mark.parametrize(("epsilon", "steps"), [(8.0, (64 / 1500, 144)), (0.5, (0.1, 20)), (40.0, (1.0, 6))])
def test_noise_is_the_least_that_keeps_epsilon(epsilon: float, steps: tuple[float, int]) -> None:
    noise = noise_for(epsilon, (steps,), 1e-5)
    assert 0.99 * epsilon <= epsilon_of(noise, (steps,), 1e-5) <= epsilon


def test_no_step_costs_nothing() -> None:
    assert epsilon_of(1.0, ((0.1, 0),), 1e-5) == 0.0


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    monkeypatch.setattr(accountant, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"privacy.epsilon: needs the package opacus.*fedlease\[privacy\]"):
        check_accountant()
