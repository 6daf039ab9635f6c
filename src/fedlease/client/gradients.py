"""The mean gradients that a task asks for, collected during training."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["MeanGradients"]


class MeanGradients:
    """Sums up gradients batch by batch.

    Args:
        parameters: of the model, by name.
        names: name of a tensor -> name of its gradient.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], names: Mapping[str, str]) -> None:
        self._sums = {gradient: torch.zeros_like(parameters[name]) for name, gradient in names.items()}
        self._parameters = {gradient: parameters[name] for name, gradient in names.items()}
        self._batches = 0

    def collect(self) -> None:
        """Adds the gradients of a backward pass; frozen tensors have none."""
        self._batches += 1
        for gradient, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._sums[gradient] += parameter.grad

    def read(self) -> dict[str, Tensor]:
        """The means over all batches so far, on the CPU."""
        return {name: (total / max(1, self._batches)).cpu() for name, total in self._sums.items()}
