"""Random numbers for noise: from the run's seed, which makes a simulation repeatable, or from the operating system.

Anyone who knows the seed can draw the same noise and subtract it, so a client of a remote server draws from the
operating system.
"""

import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from fedlease.core.row_noise import Draws
from fedlease.core.seeds import generator

__all__ = ["Secret", "Seeded", "draws_of"]

PARTS = 4
"""How many normal numbers are added to make one: the rounding of a single float can reveal the value that noise hides
(Mironov, CCS 2012; Holohan and Braghin, "Secure Random Sampling in Differential Privacy", ESORICS 2021)."""


@dataclass(frozen=True)
class Seeded:
    """Repeatable draws, not private against anyone who knows the seed.

    Attributes:
        generator: source of all draws.
    """

    generator: torch.Generator

    def uniform(self, count: int) -> Tensor:
        """See :class:`~fedlease.core.row_noise.Draws`."""
        return torch.rand(count, generator=self.generator, dtype=torch.float64)

    def normal(self, count: int) -> Tensor:
        """See :class:`~fedlease.core.row_noise.Draws`."""
        return torch.randn(count, generator=self.generator)


@dataclass(frozen=True)
class Secret:
    """Draws from the operating system's cryptographic generator."""

    def uniform(self, count: int) -> Tensor:
        """See :class:`~fedlease.core.row_noise.Draws`."""
        return torch.from_numpy(_uniform(count))

    def normal(self, count: int) -> Tensor:
        """See :class:`~fedlease.core.row_noise.Draws`."""
        # Shifted up by half a step, so that no number is 0 or 1, whose quantile is infinite.
        drawn = ndtri(_uniform(PARTS * count) + 2.0**-54).reshape(PARTS, count).sum(0) / np.sqrt(PARTS)
        return torch.from_numpy(drawn).float()


def _uniform(count: int) -> NDArray[np.float64]:
    """Multiples of 2^-53 in [0, 1)."""
    return (np.frombuffer(os.urandom(8 * count), np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draws_of(seed: int | None, *purpose: str | int) -> Draws:
    """Draws for one purpose: from the seed, or from the operating system where it is None."""
    return Secret() if seed is None else Seeded(generator(seed, *purpose))
