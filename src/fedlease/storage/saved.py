"""Contents of a checkpoint: the last step of a method and, under early stopping, the best one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedlease.core.suspects import Seen
from fedlease.core.types import ClientId, Tensors
from fedlease.methods.head import HeadState

__all__ = ["Best", "Saved"]


@dataclass(frozen=True)
class Best:
    """The round with the best models on validation rows, see :mod:`fedlease.server.stopping`.

    Attributes:
        step: number of the step that ended the round.
        value: mean of ``clients``.
        state: the method's state after the round.
        private: private tensors after the round, see :class:`Saved`.
        waited: number of rounds since.
        clients: client -> value on its validation rows.
    """

    step: int
    value: float
    state: HeadState | Any
    private: Mapping[ClientId, Mapping[str, Tensors]]
    waited: int = 0
    clients: Mapping[ClientId, float] = field(default_factory=dict)

    @property
    def round(self) -> int:
        """The number of the round; 0 is the warm-up."""
        return int(self.state.round) - 1


@dataclass(frozen=True)
class Saved:
    """The data that a resumed run needs.

    Attributes:
        method: name of the method.
        step: number of completed steps (warm-up waves and rounds).
        state: the method's state, in most runs within a :class:`~fedlease.methods.head.HeadState`.
        private: client -> slot -> tensors, see :class:`~fedlease.client.store.Private`.
        totals: running sums of bytes, seconds and steps.
        finished: whether no round is left.
        best: the best round so far, under early stopping; a finished method has its state.
        seen: client -> step -> the screen's memory of the update that was used.
        received: client -> tensors that it has received, for the filters.
        residuals: client in this process -> rounding errors that it has not sent yet, see
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
