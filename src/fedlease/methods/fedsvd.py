"""FedSVD: only B is trained and sent; A is renewed by singular value decompositions of the product B A.

Lee, Park, Lee, Wagner, Seong, Bocklet, Lee, Hwang: FedSVD: Adaptive Orthogonalization for Private Federated Learning
with LoRA. NeurIPS 2025. https://arxiv.org/abs/2505.12805
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fedlease.core.low_rank import orthonormal
from fedlease.core.types import ClientUpdate, TensorName
from fedlease.methods.base import CommonState, Terms
from fedlease.methods.fedit import FedIT

__all__ = ["FedSVD", "build"]


@dataclass(frozen=True)
class FedSVD(FedIT):
    """FFA-LoRA in which the product B A = U S V^T is rewritten every few rounds as B = U S and A = V^T.

    Attributes:
        every: rounds between two decompositions, at least 1; more than all rounds is FFA-LoRA, bit for bit.
    """

    every: int = 1

    averaged: ClassVar[tuple[str, ...]] = ()

    def combined(self, state: CommonState, updates: Sequence[ClientUpdate]) -> CommonState:
        """Averages B, and decomposes the product where that is due, without changing it."""
        after = super().combined(state, updates)
        if state.round % self.every:
            return after
        tensors = dict(after.adapter.tensors)
        for module in after.adapter.spec.target_modules:
            a, b = (str(TensorName(module, kind, 0)) for kind in "AB")
            pair = orthonormal(tensors[a].double(), tensors[b].double())
            tensors[a], tensors[b] = (tensor.float().contiguous() for tensor in pair)
        return replace(after, adapter=replace(after.adapter, tensors=tensors))


def build(terms: Terms, *, every: int = 1) -> FedSVD:
    """FedSVD from the settings of ``fedsvd.*``."""
    return FedSVD(terms.budget, terms.weights, trained="B", sent="B", every=every)
