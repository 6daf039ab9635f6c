"""Privacy loss (epsilon) of a sequence of noisy steps on sampled rows, from the PRV accountant of opacus.

The results are upper bounds, not estimates: Gopi, Lee and Wutschitz, "Numerical Composition of Differential Privacy",
NeurIPS 2021 (https://arxiv.org/abs/2106.02848). opacus is imported only when a number is computed.
"""

import math
import warnings
from functools import lru_cache
from importlib.util import find_spec

from fedlease.core.row_noise import Sampling
from fedlease.errors import ConfigError

__all__ = ["check_accountant", "epsilon_of", "noise_for"]

MISSING = (
    "privacy.epsilon: needs the package opacus, which finds the noise; install it with pip install 'fedlease[privacy]'"
)

TOLERANCE = 0.01
"""Share of epsilon that the noise may leave unspent; it never exceeds epsilon."""

LEAST, MOST = 0.2, 1e4
"""Range in which noise is sought, in units of the clipping length."""

FACTOR = 1.25
"""Ratio of one guess to the next until epsilon lies between two."""


def check_accountant() -> None:
    """Checks that opacus is installed.

    Raises:
        ConfigError: it is not installed.
    """
    if find_spec("opacus") is None:
        raise ConfigError(MISSING)


@lru_cache(maxsize=4096)
def epsilon_of(noise: float, steps: tuple[Sampling, ...], delta: float) -> float:
    """Epsilon of the steps at a given delta; 0 without steps.

    Args:
        noise: standard deviation of the noise in units of the clipping length, above 0.
        steps: pairs of sampling rate and number of steps, in any order.
        delta: in (0, 1).

    Raises:
        ConfigError: opacus is not installed.
    """
    taken = [(noise, rate, count) for rate, count in steps if count]
    if not taken:
        return 0.0
    check_accountant()
    with warnings.catch_warnings():
        # opacus warns when it is imported and on its first guess, which is not yet a bound.
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant

        accountant = PRVAccountant()
        accountant.history = taken
        return float(accountant.get_epsilon(delta=delta))


@lru_cache(maxsize=4096)
def noise_for(epsilon: float, steps: tuple[Sampling, ...], delta: float) -> float:
    """Smallest noise that keeps the epsilon of the steps at or below ``epsilon``, and within 1 % of it.

    Args:
        epsilon: above 0.
        steps: as for :func:`epsilon_of`, at least one.
        delta: in (0, 1).

    Raises:
        ConfigError: opacus is not installed, or no noise is enough.
    """
    # The first guess is exact in the limit of small rates and large noise.
    many = math.sqrt(sum(rate**2 * count for rate, count in steps) * 2 * math.log(1.25 / delta)) / epsilon
    guess = many + 0.25
    wanted = (1 - TOLERANCE / 2) * epsilon
    spent = {round(guess, 4): epsilon_of(round(guess, 4), steps, delta)}
    while not any((1 - TOLERANCE) * epsilon <= found <= epsilon for found in spent.values()):
        below = max((noise for noise, found in spent.items() if found > epsilon), default=None)
        above = min((noise for noise, found in spent.items() if found <= epsilon), default=None)
        if below is None or above is None:
            tried = above / FACTOR if below is None and above is not None else (below or guess) * FACTOR
        else:
            # Epsilon falls nearly as a power of noise.
            share = math.log(spent[below] / wanted) / math.log(spent[below] / spent[above])
            tried = below * (above / below) ** min(max(share, 0.05), 0.95)
        if (tried := round(tried, 4)) in spent or not LEAST <= tried <= MOST:
            break
        spent[tried] = epsilon_of(tried, steps, delta)
    enough = [noise for noise, found in spent.items() if found <= epsilon]
    if not enough:
        raise ConfigError(f"privacy.epsilon: no noise up to {MOST:g} is enough for {epsilon:g} at delta {delta:g}")
    return min(enough)
