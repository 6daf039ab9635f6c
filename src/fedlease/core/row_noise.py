"""The arithmetic of differentially private training: rows are sampled, their gradients bounded, and noise is added.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016 (https://arxiv.org/abs/1607.00133), algorithm 1. The
unit that is protected is a row: two sets of rows are neighbours where one row has been replaced by one without any
gradient, so that the number of rows is no secret (Ponomareva et al., "How to DP-fy ML", JAIR 2023, section 2.1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Amount", "Draws", "Sampling", "bounded_sum", "noisy_mean", "poisson_batch", "sampling", "samplings"]

Sampling = tuple[float, int]
"""Probability with which a row takes part in a step, and number of such steps."""


@dataclass(frozen=True)
class Amount:
    """How much a client trains, in passes or in steps.

    Attributes:
        whole: over all of its rows.
        halves: over each of two halves of them, which share no row.
    """

    whole: int = 0
    halves: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.whole + other.whole, self.halves + other.halves)

    def __le__(self, other: "Amount") -> bool:
        """Whether the other is no less of either kind."""
        return self.whole <= other.whole and self.halves <= other.halves

    def __str__(self) -> str:
        """An amount of steps, in words."""
        return f"{self.whole} steps" + (f" and {self.halves} on halves" if self.halves else "")

    def steps(self, rows: int, batch_size: int) -> "Amount":
        """The steps of a number of passes; on halves, those of the larger half."""
        larger = math.ceil(rows / 2)
        return Amount(self.whole * math.ceil(rows / batch_size), self.halves * math.ceil(larger / batch_size))


class Draws(Protocol):
    """The source of random numbers."""

    def uniform(self, count: int) -> Tensor:
        """Uniform numbers in [0, 1), (count,) float64, on the CPU."""

    def normal(self, count: int) -> Tensor:
        """Normal numbers of mean 0 and deviation 1, (count,) float32, on the CPU."""


def sampling(rows: int, batch_size: int, passes: int) -> Sampling:
    """The steps of a number of passes over rows: as without privacy, with ``batch_size`` rows each on average."""
    return min(1.0, batch_size / rows), passes * math.ceil(rows / batch_size)


def samplings(rows: int, batch_size: int, steps: Amount) -> tuple[Sampling, ...]:
    """The steps that concern any one row, which is in one of the halves and stays there.

    Steps on the other half learn nothing of the row but what noise has covered before, so that steps on halves count
    once (parallel composition), with the rate of the smaller half, in which a row takes part more often.
    """
    kinds = (rows, steps.whole), (max(1, rows // 2), steps.halves)
    return tuple((min(1.0, batch_size / count), taken) for count, taken in kinds if taken)


def poisson_batch(rows: int, rate: float, draws: Draws) -> list[int]:
    """The rows of a step, each of which takes part with probability ``rate`` whatever the others do; maybe none."""
    return (draws.uniform(rows) < rate).nonzero().flatten().tolist()


def bounded_sum(gradients: Sequence[Tensor], clip: float) -> list[Tensor]:
    """The sum of gradients of rows, each scaled down to length ``clip`` at most over all tensors together.

    Args:
        gradients: one per tensor, (rows, *shape).
        clip: C, above 0.

    Returns:
        One per tensor, (*shape). A row whose gradient is NaN or infinite, which has no length, counts as 0.
    """
    squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
    sound = squares.isfinite()
    factors = torch.where(sound, (clip / squares.sqrt().clamp(min=clip)), 0.0)  # (rows,)
    if not bool(sound.all()):
        gradients = [g.masked_fill(~sound.view(-1, *[1] * (g.dim() - 1)), 0.0) for g in gradients]
    return [torch.tensordot(factors.to(g.dtype), g, 1) for g in gradients]


def noisy_mean(total: Tensor, *, noise: float, clip: float, expected: float, draws: Draws) -> Tensor:
    """(total + noise x clip x N(0, 1)) / expected, of the shape of ``total``.

    Args:
        total: sum of bounded gradients.
        noise: sigma, the deviation in units of ``clip``.
        clip: C, the most that a row adds to ``total``.
        expected: rows that take part on average; their true number would tell of the sample.
        draws: of the noise.
    """
    drawn = draws.normal(total.numel()).view(total.shape).to(total)
    return (total + noise * clip * drawn) / expected
