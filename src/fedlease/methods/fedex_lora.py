"""FedEx-LoRA: FedIT whose mean is exact: what the product of the means lacks is added to the frozen weights of all.

Singhal, Ponkshe, Vepakomma: FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Large Language
Models. ACL 2025. https://arxiv.org/abs/2410.09432
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from fedlease.core.aggregate import weighted_uploads
from fedlease.core.codec import serialisable
from fedlease.core.residual import extended, lacking, on_residual
from fedlease.core.types import ClientId, ClientModel, ClientUpdate, Tensors
from fedlease.methods.base import CommonState, Terms
from fedlease.methods.fedit import FedIT

__all__ = ["FedExLoRA", "FedExLoRAState", "build"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class FedExLoRAState(CommonState):
    """Where a FedEx-LoRA run stands; ``adapter`` is the mean of A and of B.

    Attributes:
        residual: what has been added to the frozen weights, see :mod:`fedlease.core.residual`.
    """

    residual: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class FedExLoRA(FedIT):
    """FedIT on top of a residual that makes its mean exact."""

    averaged: ClassVar[tuple[str, ...]] = ()

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> FedExLoRAState:
        """The initial adapter is the first shared one, and nothing is added to the frozen weights."""
        return FedExLoRAState(round=1, adapter=adapter, clients=dict(clients))

    def aggregate(
        self, state: CommonState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> CommonState:
        """Means of A and of B, and what their product lacks."""
        after = super().aggregate(state, updates, absent)
        assert isinstance(state, FedExLoRAState) and isinstance(after, FedExLoRAState)
        if not updates:
            return after
        lack = lacking(*weighted_uploads(updates, self.weights), after.adapter.tensors)
        return replace(after, residual=extended(state.residual, lack))

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The shared adapter on top of the residual."""
        assert isinstance(state, FedExLoRAState)
        return on_residual(state.adapter, state.residual)


def build(terms: Terms) -> FedExLoRA:
    """FedEx-LoRA, which has no settings of its own."""
    return FedExLoRA(terms.budget, terms.weights)
