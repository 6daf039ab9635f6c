"""FlexLoRA: the products of adapters are averaged, and every client gets their mean at its own rank, by SVD.

Bai, Chen, Qian, Yao, Li: Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client Resources.
NeurIPS 2024. https://arxiv.org/abs/2402.11505
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fedlease.core.aggregate import weighted_uploads
from fedlease.core.low_rank import product_mean
from fedlease.core.types import ClientUpdate
from fedlease.methods.base import CommonState, Terms
from fedlease.methods.fedit import FedIT

__all__ = ["FlexLoRA", "build"]


@dataclass(frozen=True)
class FlexLoRA(FedIT):
    """FedIT with the mean of the products B A, written as a pair of rank R, instead of the means of A and of B.

    :class:`fedlease.methods.ranks.WithRanks` cuts the pair for clients of a lower rank r_i, which gives the best
    approximation of rank r_i of the mean itself.
    """

    averaged: ClassVar[tuple[str, ...]] = ()

    def combined(self, state: CommonState, updates: Sequence[ClientUpdate]) -> CommonState:
        """Replaces the adapter by the best pair of rank R for the weighted mean of the products."""
        mean = product_mean(*weighted_uploads(updates, self.weights))
        return replace(state, adapter=replace(state.adapter, tensors={**state.adapter.tensors, **mean}))


def build(terms: Terms) -> FlexLoRA:
    """FlexLoRA, which has no settings of its own."""
    return FlexLoRA(terms.budget, terms.weights)
