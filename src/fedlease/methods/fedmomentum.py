"""FedMomentum: the mean of the products becomes an adapter of rank r, and its remainder joins the frozen weights.

Yan, Hua, Wang, Zhang, Wu, Song, Guan: FedMomentum: Preserving LoRA Training Momentum in Federated Fine-Tuning. 2026.
https://arxiv.org/abs/2603.08014
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedlease.core.aggregate import weighted_uploads
from fedlease.core.residual import extended, parted, stacked
from fedlease.core.types import ClientUpdate
from fedlease.methods.base import CommonState, Terms
from fedlease.methods.on_residual import OnResidual, ResidualState

__all__ = ["FedMomentum", "build"]


@dataclass(frozen=True)
class FedMomentum(OnResidual):
    """FedIT with the mean of the products B A instead of the means of A and of B.

    Attributes:
        energy: tau in (0, 1]: the largest singular values of the mean are kept until their squares sum to this share of
            all squares. Those beyond the adapter's rank are added to the frozen weights; the others are lost. 1 loses
            nothing.
    """

    energy: float = 0.9999

    def combined(self, state: CommonState, updates: Sequence[ClientUpdate]) -> CommonState:
        """Splits the mean of the products into its best pair of rank r, the next adapter, and a residual."""
        assert isinstance(state, ResidualState)
        adapter = state.adapter
        major, rest = parted(stacked(*weighted_uploads(updates, self.weights)), adapter.spec.r, self.energy)
        pair = {name: tensor.to(adapter.tensors[name].dtype).contiguous() for name, tensor in major.items()}
        residual = extended(state.residual, rest)
        return replace(state, adapter=replace(adapter, tensors={**adapter.tensors, **pair}), residual=residual)


def build(terms: Terms, *, energy: float = 0.9999) -> FedMomentum:
    """FedMomentum from the settings of ``fedmomentum.*``."""
    return FedMomentum(terms.budget, terms.weights, energy=energy)
