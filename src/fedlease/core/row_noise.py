"""The arithmetic of differentially private training: rows are sampled, their gradients clipped, and noise is added.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016 (https://arxiv.org/abs/1607.00133), algorithm 1. The
protected unit is a row: two sets of rows are neighbours if they differ in one row, which in one of them is replaced by
a row without any gradient. The number of rows is therefore not protected (Ponomareva et al., "How to DP-fy ML", JAIR
2023, section 2.1).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedlease.core.tensor_names import HEAD, TensorName

__all__ = [
    "Amount",
    "Draws",
    "Sampling",
    "bounded_sum",
    "clipped_apart",
    "comparable",
    "noisy_mean",
    "poisson_batch",
    "sampling",
    "samplings",
]

Sampling = tuple[float, int]
"""Probability that a row takes part in a step, and the number of such steps."""


@dataclass(frozen=True)
class Amount:
    """How much a client trains, in passes or in steps.

    Attributes:
        whole: over all rows.
        halves: over each of two disjoint halves of the rows.
    """

    whole: int = 0
    halves: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.whole + other.whole, self.halves + other.halves)

    def __le__(self, other: "Amount") -> bool:
        """Whether neither kind is more than in the other amount."""
        return self.whole <= other.whole and self.halves <= other.halves

    def __str__(self) -> str:
        """The amount in words, read as steps."""
        return f"{self.whole} steps" + (f" and {self.halves} on halves" if self.halves else "")

    def steps(self, rows: int, batch_size: int) -> "Amount":
        """The steps of this many passes; for halves, the steps on the larger half."""
        larger = math.ceil(rows / 2)
        return Amount(self.whole * math.ceil(rows / batch_size), self.halves * math.ceil(larger / batch_size))


class Draws(Protocol):
    """The source of random numbers."""

    def uniform(self, count: int) -> Tensor:
        """Uniform numbers in [0, 1), (count,) float64, on the CPU."""

    def normal(self, count: int) -> Tensor:
        """Standard normal numbers, (count,) float32, on the CPU."""


def sampling(rows: int, batch_size: int) -> Sampling:
    """The steps of a pass over rows: as many as without privacy, each with ``batch_size`` rows on average."""
    return min(1.0, batch_size / rows), math.ceil(rows / batch_size)


def samplings(rows: int, batch_size: int, steps: Amount) -> tuple[Sampling, ...]:
    """The steps in which any one row can take part; a row is always in the same half.

    The halves are disjoint, so that steps on them count once (parallel composition), with the sampling rate of the
    smaller half, where a row takes part more often.
    """
    kinds = (rows, steps.whole), (max(1, rows // 2), steps.halves)
    return tuple((min(1.0, batch_size / count), taken) for count, taken in kinds if taken)


def poisson_batch(rows: int, rate: float, draws: Draws) -> list[int]:
    """The rows of a step, possibly none; each takes part with probability ``rate``, independently of the others."""
    return (draws.uniform(rows) < rate).nonzero().flatten().tolist()


def bounded_sum(gradients: Sequence[Tensor], clip: float) -> list[Tensor]:
    """The sum over rows of their gradients, each clipped to the norm ``clip`` over all tensors together.

    Args:
        gradients: one per tensor, (rows, *shape).
        clip: C, above 0.

    Returns:
        One per tensor, (*shape). A row whose gradient is not finite counts as 0.
    """
    squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
    sound = squares.isfinite()
    factors = torch.where(sound, (clip / squares.sqrt().clamp(min=clip)), 0.0)  # (rows,)
    if not bool(sound.all()):
        gradients = [g.masked_fill(~sound.view(-1, *[1] * (g.dim() - 1)), 0.0) for g in gradients]
    return [torch.tensordot(factors.to(g.dtype), g, 1) for g in gradients]


def clipped_apart(names: Iterable[str]) -> list[list[str]]:
    """Divides trained tensors into the parts that are clipped apart, each sorted: adapters, routers or cores, head.

    A head's gradient is about ten times as long as that of A and B. Clipped together, A and B would get a tenth of the
    clipping norm, and as much noise as the head. Of p parts, each is clipped to C / sqrt(p), so that all together keep
    C.
    """
    parts: dict[str, list[str]] = {}
    for name in sorted(names):
        module, kind, _ = TensorName.parse(name)
        parts.setdefault(HEAD if module == HEAD else "G" if kind == "G" else "AB", []).append(name)
    return list(parts.values())


def comparable(names: Iterable[str]) -> frozenset[str]:
    """Those of the tensors that a warm-up trains under noise: B, and the biases of a head.

    The gradient of B depends on A and on the head's weights. As long as both rest at their initial values, which all
    clients share, noise reaches B alone. The biases learn how frequent the labels are, which B would learn otherwise.
    """

    def trained(name: str) -> bool:
        module, kind, _ = TensorName.parse(name)
        return kind.endswith("bias") if module == HEAD else kind == "B"

    return frozenset(filter(trained, names))


def noisy_mean(total: Tensor, *, noise: float, clip: float, expected: float, draws: Draws) -> Tensor:
    """(total + noise x clip x N(0, 1)) / expected, of the shape of ``total``.

    Args:
        total: sum of clipped gradients.
        noise: sigma, the standard deviation in units of ``clip``.
        clip: C, the largest norm that a row adds to ``total``.
        expected: mean number of rows in a step; the actual number would reveal something about the sample.
        draws: source of the noise.
    """
    drawn = draws.normal(total.numel()).view(total.shape).to(total)
    return (total + noise * clip * drawn) / expected
