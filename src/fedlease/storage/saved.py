"""Contents of a checkpoint: the last step of a method, and under early stopping the best one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedlease.core.suspects import Seen
from fedlease.core.types import ClientId, Tensors
from fedlease.methods.head import HeadState

__all__ = ["Best", "Saved"]


@dataclass(frozen=True)
class Best:
    """The round whose models did best on validation rows, see :mod:`fedlease.server.stopping`.

    Attributes:
        step: that ended it.
        value: mean over clients of what is compared.
        state: the method's after it.
        private: as of :class:`Saved`, after it.
        waited: rounds made since.
        clients: client -> what is compared.
    """

    step: int
    value: float
    state: HeadState | Any
    private: Mapping[ClientId, Mapping[str, Tensors]]
    waited: int = 0
    clients: Mapping[ClientId, float] = field(default_factory=dict)

    @property
    def round(self) -> int:
        """Its number; 0 is the warm-up."""
        return int(self.state.round) - 1


@dataclass(frozen=True)
class Saved:
    """The data that a resumed run needs.

    Attributes:
        method: name.
        step: completed steps (warm-up waves and rounds).
        state: the method's, in most runs a :class:`~fedlease.methods.head.HeadState` around it.
        private: client -> slot -> tensors, see :class:`~fedlease.client.store.Private`.
        totals: running sums: bytes, seconds, steps.
        finished: no round is left.
        best: under early stopping the best round so far, which a finished method has as its state.
        seen: client -> step -> what is remembered of the update that was used.
        received: client -> what it has received, as filters know it.
        residuals: client in this process -> what rounding has kept from the server, see
            :class:`~fedlease.privacy.memory.Memory`.
    """

    method: str
    step: int
    state: HeadState | Any
    private: Mapping[ClientId, Mapping[str, Tensors]]
    totals: Mapping[str, float] = field(default_factory=dict)
    finished: bool = False
    best: Best | None = None
    seen: Mapping[ClientId, Mapping[int, Seen]] = field(default_factory=dict)
    received: Mapping[ClientId, Tensors] = field(default_factory=dict)
    residuals: Mapping[ClientId, Mapping[str, Tensors]] = field(default_factory=dict)
