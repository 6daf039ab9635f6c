"""Sketches of warm-ups: a few random sums of a unit B (or A, or B A), which reveal cosines and little else.

A sketch takes the place of the sketched matrix, as a B with one column, so that distances, silhouettes, centroids and
corrected similarities are computed from it as from B itself.

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
"""Values that are drawn at a time, so that a large product B A is never wholly in memory."""


@serialisable
@dataclass(frozen=True)
class Sketch:
    """The rule by which all clients of a run sketch what they have learnt.

    With u the flattened unit matrix of a module, every value of u is added with a random sign to one of k sums, drawn
    at random. The inner product of two sketches has the inner product of the two u as its mean, and a standard
    deviation of at most sqrt(2 / k). For unrelated u, the mean over L modules has a deviation of 1 / sqrt(k L).

    Attributes:
        numbers: k, sums per module.
        signal: the matrix that is sketched: ``B``, ``A``, or the product ``BA``.
        seed: of the draws; it is not secret.
    """

    numbers: int
    signal: Signal
    seed: int

    def of(self, tensors: Tensors) -> dict[str, Tensor]:
        """The sketches of an adapter, or of both halves of a warm-up.

        Args:
            tensors: A and B, numbered as expert 0, and the second half's part of B as expert 1.

        Returns:
            ``<module>/B/<expert>`` -> (k, 1) float32; all zero if the matrix is.
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
        """Zeros with the names and shapes of the sketches that replace tensors with these names."""
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
            # One draw in 0 .. 2k - 1 gives the sum (modulo k) and the sign (lower or upper half).
            places = torch.randint(2 * self.numbers, values.shape, generator=drawn)
            signs = (places < self.numbers).double() * 2 - 1
            sums.index_add_(0, places % self.numbers, values * signs)
        return (sums / (math.sqrt(squares) or math.inf)).float().unsqueeze(1)


def is_sketch(tensors: Tensors) -> bool:
    """Whether a client's tensors are sketches of its warm-up; sketches come without any A."""
    return bool(tensors) and not any(TensorName.parse(name).kind == "A" for name in tensors)
