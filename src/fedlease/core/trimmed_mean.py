"""A mean that a few clients cannot control: the largest and smallest values of every coordinate are left out.

Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates. ICML 2018.
https://arxiv.org/abs/1803.01498
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlease.core.aggregate import shares
from fedlease.core.types import Tensors

__all__ = ["TrimmedMean"]


@dataclass(frozen=True)
class TrimmedMean:
    """The coordinate-wise trimmed mean over weighted clients.

    In every coordinate, clients are sorted by value, the share ``trim`` of the total weight is cut off at both ends,
    and the mean is taken over the remaining weight; a client at a cut keeps a part of its weight. With equal weights
    and a whole number ``trim`` x N, this is the paper's mean. Clients that together have at most the share ``trim`` of
    the weight cannot move a coordinate beyond the values of the others. Announcing more rows does not protect a client
    from being cut.

    Attributes:
        trim: in [0, 1/2); 0 gives the weighted mean, a value near 1/2 the weighted median.
    """

    trim: float = 0.1

    def __call__(self, states: Sequence[Tensors], weights: Sequence[float]) -> dict[str, Tensor]:
        """The mean, in the dtype of the inputs, names sorted, computed in float64.

        Raises:
            ValueError: ``trim`` is out of range, or as :func:`fedlease.core.aggregate.weighted_mean`.
        """
        if not 0 <= self.trim < 0.5:
            raise ValueError(f"trim must be in [0, 0.5), received {self.trim}")
        masses = torch.tensor(shares(states, weights), dtype=torch.float64)
        return {name: self._of([state[name] for state in states], masses) for name in sorted(states[0])}

    def _of(self, tensors: Sequence[Tensor], masses: Tensor) -> Tensor:
        like = tensors[0]
        values, order = torch.stack([tensor.detach().double().flatten() for tensor in tensors]).sort(0)  # (N, numel)
        upto = masses.to(like.device)[order].cumsum(0).clamp(self.trim, 1 - self.trim)
        left = upto.diff(dim=0, prepend=torch.full_like(upto[:1], self.trim))
        return ((left * values).sum(0) / left.sum(0)).reshape(like.shape).to(like.dtype)
