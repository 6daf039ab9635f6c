"""Medians over clients, each of whom has one vote, so that fewer than half of them cannot control the result."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median as middle

import torch
from torch import Tensor

from fedlease.core.aggregate import shares
from fedlease.core.types import Tensors

__all__ = ["geometric_median", "median"]

STEPS = 100
"""Most steps of Weiszfeld's iteration."""

CLOSE = 1e-7
"""Relative decrease of the sum of distances at which the iteration has converged."""

SMOOTH = 1e-6
"""Smallest distance, as a share of the median distance, that the iteration divides by."""


def median(states: Sequence[Tensors], weights: Sequence[float]) -> dict[str, Tensor]:
    """The median of every coordinate; of an even number of values, the mean of the middle two.

    Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates. ICML
    2018. https://arxiv.org/abs/1803.01498

    Args:
        states: one mapping per client, all with the same names, shapes and floating dtypes.
        weights: one per state; they are checked but not used, since a client could announce any number of rows.

    Returns:
        The median, in the dtype of the inputs, names sorted.

    Raises:
        ValueError: as :func:`fedlease.core.aggregate.weighted_mean`.
    """
    shares(states, weights)
    count, found = len(states), {}
    for name in sorted(states[0]):
        ordered = torch.stack([state[name].detach().double() for state in states]).sort(0).values
        found[name] = ((ordered[(count - 1) // 2] + ordered[count // 2]) / 2).to(states[0][name].dtype)
    return found


def geometric_median(states: Sequence[Tensors], weights: Sequence[float]) -> dict[str, Tensor]:
    """The point with the smallest sum of Euclidean distances to all states, by Weiszfeld's iteration.

    Pillutla, Kakade, Harchaoui: Robust Aggregation for Federated Learning. IEEE Transactions on Signal Processing 70,
    2022. https://arxiv.org/abs/1912.13445

    Arguments, result and errors are those of :func:`median`.
    """
    shares(states, weights)
    names, first = sorted(states[0]), states[0]
    points = [_Point({name: state[name].detach().double() for name in names}) for state in states]
    # A single false state could put a mean anywhere, so the iteration starts from the median.
    centre = _Point({name: tensor.double() for name, tensor in median(states, weights).items()})
    before = float("inf")
    for _ in range(STEPS):
        distances = [point.distance(centre) for point in points]
        total, least = sum(distances), SMOOTH * middle(distances)
        if before - total <= CLOSE * total or not least:  # half of the states, or more, are the median
            break
        before = total
        inverse = [1 / max(distance, least) for distance in distances]
        centre = _mean(points, [value / sum(inverse) for value in inverse])
    return {name: centre.tensors[name].to(first[name].dtype) for name in names}


@dataclass(frozen=True)
class _Point:
    tensors: Tensors

    def distance(self, other: "_Point") -> float:
        squares = (float((self.tensors[name] - other.tensors[name]).square().sum()) for name in self.tensors)
        return float(sum(squares) ** 0.5)


def _mean(points: Sequence[_Point], parts: Sequence[float]) -> _Point:
    names = points[0].tensors
    both = list(zip(points, parts, strict=True))
    return _Point({name: torch.stack([p.tensors[name] * part for p, part in both]).sum(0) for name in names})
