"""Sketches of warm-ups: few random sums of a unit B (or A, or B A), from which cosines can be told and little else.

A sketch goes in the place of the matrix that it is of, as a B with one column, so that distances, silhouettes,
centroids and corrected similarities are computed from it as from B itself.

Charikar, Chen, Farach-Colton: Finding Frequent Items in Data Streams. ICALP 2002.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlease.core.choices import Signal
from fedlease.core.seeds import generator
from fedlease.core.serialisable import serialisable
from fedlease.core.tensor_names import TensorName, Tensors

__all__ = ["Sketch", "is_sketch"]

DRAWN = 2**20
"""Values that are drawn at a time, so that a large product B A is never in memory whole."""


@serialisable
@dataclass(frozen=True)
class Sketch:
    """How clients sketch what they have learnt; all of one run do it alike.

    With u the flattened unit matrix of a module, every value of u is added, with a random sign, to one of k sums that
    is drawn for it. The inner product of two sketches has that of the two u as its mean, and a deviation of at most
    sqrt(2 / k); of unrelated u, and of the mean over L modules, it is 1 / sqrt(k L).

    Attributes:
        numbers: k, sums per module.
        signal: what is sketched: ``B``, ``A``, or the product ``BA``.
        seed: of the draws; no secret.
    """

    numbers: int
    signal: Signal
    seed: int

    def of(self, tensors: Tensors) -> dict[str, Tensor]:
        """The sketches of an adapter, or of what two halves of a client's rows have added to it.

        Args:
            tensors: A and B, numbered as expert 0, and the second half's part of B as expert 1.

        Returns:
            ``<module>/B/<expert>`` -> (k, 1) float32; all zero where the matrix is.
        """
        named = [(name, TensorName.parse(name)) for name in sorted(tensors)]
        return {
            name: self._of(
                parsed.module, tensors[name].double(), tensors[str(TensorName(parsed.module, "A", 0))].double()
            )
            for name, parsed in named
            if parsed.kind == "B"
        }

    def like(self, names: Iterable[str]) -> dict[str, Tensor]:
        """What is sent in the place of an A and B with these names: zeros, by name."""
        kinds = {name: TensorName.parse(name).kind for name in sorted(names)}
        return {name: torch.zeros(self.numbers, 1) for name, kind in kinds.items() if kind == "B"}

    def _of(self, module: str, b: Tensor, a: Tensor) -> Tensor:
        rows = max(1, DRAWN // a.shape[1])
        blocks: Iterable[Tensor] = [b if self.signal == "B" else a]
        if self.signal == "BA":
            blocks = (some @ a for some in b.split(rows))
        sums, squares = torch.zeros(self.numbers, dtype=torch.float64), 0.0
        drawn = generator(self.seed, "sketch", module)
        for block in blocks:
            values = block.flatten()
            squares += float(values.square().sum())
            # One draw gives both: the sum, and by its half the sign.
            places = torch.randint(2 * self.numbers, values.shape, generator=drawn)
            signs = (places < self.numbers).double() * 2 - 1
            sums.index_add_(0, places % self.numbers, values * signs)
        return (sums / (math.sqrt(squares) or math.inf)).float().unsqueeze(1)


def is_sketch(tensors: Tensors) -> bool:
    """Whether what a client has sent of its warm-up are sketches, beside which no A is."""
    return bool(tensors) and not any(TensorName.parse(name).kind == "A" for name in tensors)
