"""What filters keep for a client between rounds: the tensors it has received and the rounding errors of its updates."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedlease.core.serialisable import serialisable
from fedlease.core.types import Tensors

__all__ = ["Memory"]


@serialisable
@dataclass(frozen=True)
class Memory:
    """The state of a client's filters under one method.

    Attributes:
        received: the tensors after the last request, by name; a candidate's number precedes the names of its tensors.
        residual: fingerprint of an adapter's spec -> name -> rounding error of the updates that the server used, which
            is added to the next update.
        step: the step of the update that ``pending`` belongs to, or None.
        pending: replaces ``residual`` once a request says that the update was used.
    """

    received: Tensors = field(default_factory=dict)
    residual: Mapping[str, Tensors] = field(default_factory=dict)
    step: int | None = None
    pending: Mapping[str, Tensors] = field(default_factory=dict)

    def accepted(self, step: int | None) -> "Memory":
        """A copy with nothing pending; ``step`` is the last one whose update the server used, or None."""
        if step is None:
            return Memory(self.received)
        residual = self.pending if self.step == step else self.residual
        return Memory(self.received, residual)

    def sent(self, step: int, fingerprint: str, residual: Tensors) -> "Memory":
        """A copy with the residual of one more update pending; what was pending before is dropped."""
        return replace(self, step=step, pending={fingerprint: residual} if residual else {})
