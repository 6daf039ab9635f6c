"""How much of anything may pass in a time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["LARGEST", "MEGABYTES", "REQUESTS", "Pace"]

LARGEST = 64
"""MiB of the largest request; Flower cuts arrays into pieces of 5."""

REQUESTS, MEGABYTES = 6000, 2048
"""What a client may ask and send in a minute unless the operator says otherwise: a message of a large mixture is a
request for each of its tensors, some thousand at once, and hardly any between two messages."""


@dataclass
class Pace:
    """An allowance that is whole after a minute, however much of it was used.

    Attributes:
        minute: what may pass in a minute, and at once after a minute without any.
        clock: seconds that never go back.
    """

    minute: float
    clock: Callable[[], float] = time.monotonic
    _left: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self._left, self._at = self.minute, self.clock()

    def takes(self, amount: float = 1) -> bool:
        """Takes an amount off the allowance; False, and nothing is taken, where it has less."""
        now = self.clock()
        self._left = min(self.minute, self._left + self.minute * (now - self._at) / 60)
        self._at = now
        if amount > self._left:
            return False
        self._left -= amount
        return True
