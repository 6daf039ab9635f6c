"""The mean gradients that a task asks for, collected while it is trained."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["MeanGradients"]


class MeanGradients:
    """Sums up gradients batch by batch.

    Args:
        parameters: the resident model's, by name.
        names: tensor -> the name of its gradient.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], names: Mapping[str, str]) -> None:
        self._sums = {gradient: torch.zeros_like(parameters[name]) for name, gradient in names.items()}
        self._parameters = {gradient: parameters[name] for name, gradient in names.items()}
        self._batches = 0

    def collect(self) -> None:
        """Takes the gradients of a backward pass; a tensor that does not learn at the time has none."""
        self._batches += 1
        for gradient, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._sums[gradient] += parameter.grad

    def read(self) -> dict[str, Tensor]:
        """Their means over all batches so far, on the CPU."""
        return {name: (total / max(1, self._batches)).cpu() for name, total in self._sums.items()}
