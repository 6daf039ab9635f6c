"""FedMomentum: the mean of the products stays an adapter as far as its rank allows; the rest joins the frozen weights.

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
        energy: tau in (0, 1]: singular values of the mean, the largest first, count until their squares are this share
            of all; what they have beyond the adapter's rank is added to the frozen weights, and the rest is lost. 1
            loses nothing.
    """

    energy: float = 0.9999

    def combined(self, state: CommonState, updates: Sequence[ClientUpdate]) -> CommonState:
        """The mean of the products: its best pair of rank r as adapter, the remainder as residual."""
        assert isinstance(state, ResidualState)
        adapter = state.adapter
        major, rest = parted(stacked(*weighted_uploads(updates, self.weights)), adapter.spec.r, self.energy)
        pair = {name: tensor.to(adapter.tensors[name].dtype).contiguous() for name, tensor in major.items()}
        residual = extended(state.residual, rest)
        return replace(state, adapter=replace(adapter, tensors={**adapter.tensors, **pair}), residual=residual)


def build(terms: Terms, *, energy: float = 0.9999) -> FedMomentum:
    """FedMomentum from the settings of ``fedmomentum.*``."""
    return FedMomentum(terms.budget, terms.weights, energy=energy)
