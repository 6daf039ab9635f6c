"""The common part of methods with one shared adapter on top of a residual, see :mod:`fedlease.core.residual`.

Clients keep the residual, as the papers assume: a client is sent only what has been added since its last round.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fedlease.core.codec import serialisable
from fedlease.core.residual import on_residual
from fedlease.core.types import ClientId, ClientModel, Tensors
from fedlease.methods.base import CommonState
from fedlease.methods.fedit import FedIT

__all__ = ["OnResidual", "ResidualState"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class ResidualState(CommonState):
    """State of a run with a residual; ``adapter`` is trained in the next round.

    Attributes:
        residual: sum of the updates added to the frozen weights, see :mod:`fedlease.core.residual`.
    """

    residual: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class OnResidual(FedIT):
    """FedIT on top of a residual, which subclasses extend in ``combined``."""

    averaged: ClassVar[tuple[str, ...]] = ()

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> ResidualState:
        """The initial adapter is the first shared one; the residual is empty."""
        return ResidualState(round=1, adapter=adapter, clients=dict(clients))

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The shared adapter on top of the residual."""
        assert isinstance(state, ResidualState)
        return on_residual(state.adapter, state.residual)
