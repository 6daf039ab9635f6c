"""One shared adapter on top of what has been added to the frozen weights of all: what such methods have in common.

Clients keep what was added, as the papers have it: a client that was there in the last round is sent what is new since.
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
    """State of a run with a residual; ``adapter`` is what everyone trains next.

    Attributes:
        residual: what has been added to the frozen weights, see :mod:`fedlease.core.residual`.
    """

    residual: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class OnResidual(FedIT):
    """FedIT on top of a residual, which its subclasses extend when they aggregate."""

    averaged: ClassVar[tuple[str, ...]] = ()

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> ResidualState:
        """The initial adapter is the first shared one, and nothing is added to the frozen weights."""
        return ResidualState(round=1, adapter=adapter, clients=dict(clients))

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The shared adapter on top of the residual."""
        assert isinstance(state, ResidualState)
        return on_residual(state.adapter, state.residual)
