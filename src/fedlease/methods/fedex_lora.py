"""FedEx-LoRA: FedIT whose mean is made exact by adding the error of the product of means to the frozen weights.

Singhal, Ponkshe, Vepakomma: FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Large Language
Models. ACL 2025. https://arxiv.org/abs/2410.09432
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedlease.core.aggregate import weighted_uploads
from fedlease.core.residual import extended, lacking
from fedlease.core.types import ClientUpdate
from fedlease.methods.base import CommonState, Terms
from fedlease.methods.on_residual import OnResidual, ResidualState

__all__ = ["FedExLoRA", "build"]


@dataclass(frozen=True)
class FedExLoRA(OnResidual):
    """FedIT on top of a residual, which makes its mean exact."""

    def combined(self, state: CommonState, updates: Sequence[ClientUpdate]) -> CommonState:
        """Averages A and B, and adds the error of their product to the residual."""
        after = super().combined(state, updates)
        assert isinstance(state, ResidualState) and isinstance(after, ResidualState)
        lack = lacking(*weighted_uploads(updates, self.weights), after.adapter.tensors)
        return replace(after, residual=extended(state.residual, lack))


def build(terms: Terms) -> FedExLoRA:
    """FedEx-LoRA, which has no settings of its own."""
    return FedExLoRA(terms.budget, terms.weights)
