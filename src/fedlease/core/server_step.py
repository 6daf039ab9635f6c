"""The server's optimiser (FedOpt): a step from the model that was sent towards the mean of the updates.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: Adaptive Federated Optimization. ICLR 2021.
https://arxiv.org/abs/2003.00295

Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification. 2019.
https://arxiv.org/abs/1909.06335 (momentum)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlease.core.choices import ServerRule
from fedlease.core.serialisable import serialisable

__all__ = ["Moments", "ServerStep"]


@serialisable
@dataclass(frozen=True)
class Moments:
    """The server's moments of one tensor, with its shape and dtype.

    Attributes:
        first: m.
        second: v; None under ``momentum``, which does not use it.
    """

    first: Tensor
    second: Tensor | None = None


@dataclass(frozen=True)
class ServerStep:
    """With d = mean - old, the step is lr m under ``momentum`` and lr m / (sqrt(v) + tau) under the adaptive rules.

    m <- beta_1 m + d under ``momentum``, else beta_1 m + (1 - beta_1) d. v <- v + d^2 under ``adagrad``,
    beta_2 v + (1 - beta_2) d^2 under ``adam``, and v - (1 - beta_2) d^2 sign(v - d^2) under ``yogi``. v starts at
    tau^2, and there is no bias correction (Algorithm 2).

    Attributes:
        rule: one of the rules above; ``none`` takes the mean.
        lr: learning rate, above 0. Under ``momentum`` with beta_1 = 0, a value of 1 gives the mean, bit for bit.
        momentum: beta_1 in [0, 1).
        beta2: beta_2 in [0, 1), of ``adam`` and ``yogi``.
        tau: adaptivity of the adaptive rules, above 0; far above sqrt(v) the step is lr m / tau.
    """

    rule: ServerRule = "none"
    lr: float = 1.0
    momentum: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __call__(self, old: Tensor, mean: Tensor, before: Moments | None) -> tuple[Tensor, Moments | None]:
        """The value to send instead of the mean, and the new moments, computed in float64.

        Args:
            old: tensor that was sent.
            mean: mean of the updates, of the same shape and dtype.
            before: moments of the last step; None at the first.
        """
        if self.rule == "none":
            return mean, None
        d = mean.double() - old.double()
        m = torch.zeros_like(d) if before is None else before.first.double()
        if self.rule == "momentum":
            carried = self.momentum * m
            # Written relative to the mean, so that lr = 1 without momentum gives exactly the mean.
            new = mean.double() + (self.lr - 1) * d + self.lr * carried
            return new.to(mean.dtype), Moments((carried + d).to(mean.dtype))
        known = None if before is None else before.second
        v = torch.full_like(d, self.tau**2) if known is None else known.double()
        m = self.momentum * m + (1 - self.momentum) * d
        square = d.square()
        if self.rule == "adagrad":
            v = v + square
        elif self.rule == "adam":
            v = self.beta2 * v + (1 - self.beta2) * square
        else:
            v = v - (1 - self.beta2) * square * torch.sign(v - square)
        new = old.double() + self.lr * m / (v.sqrt() + self.tau)
        return new.to(mean.dtype), Moments(m.to(mean.dtype), v.to(mean.dtype))
