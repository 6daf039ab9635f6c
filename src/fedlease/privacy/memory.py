"""What filters remember of a client: what it has received, and what rounding has withheld from the server so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedlease.core.serialisable import serialisable
from fedlease.core.types import Tensors

__all__ = ["Memory"]


@serialisable
@dataclass(frozen=True)
class Memory:
    """A client's side of filters, under one method.

    Attributes:
        received: as the last request left it: name -> tensor, a candidate's with its number before the name.
        residual: fingerprint of an adapter's spec -> name -> what rounding has taken from the updates that the server
            used; the next update carries it.
        step: the step whose update ``pending`` belongs to, or None.
        pending: takes the place of ``residual`` once a request says that the update was used.
    """

    received: Tensors = field(default_factory=dict)
    residual: Mapping[str, Tensors] = field(default_factory=dict)
    step: int | None = None
    pending: Mapping[str, Tensors] = field(default_factory=dict)

    def accepted(self, step: int | None) -> "Memory":
        """A copy with nothing pending, given the last step of this client whose update was used, or None."""
        if step is None:
            return Memory(self.received)
        residual = self.pending if self.step == step else self.residual
        return Memory(self.received, residual)

    def sent(self, step: int, fingerprint: str, residual: Tensors) -> "Memory":
        """A copy in which the residual of one more update is pending; it replaces that of any other adapter."""
        return replace(self, step=step, pending={fingerprint: residual} if residual else {})
