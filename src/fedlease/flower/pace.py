"""Limits the rate of requests and bytes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["LARGEST", "MEGABYTES", "REQUESTS", "Pace"]

LARGEST = 64
"""Largest request, in MiB; Flower cuts arrays into pieces of 5 MiB."""

REQUESTS, MEGABYTES = 6000, 2048
"""Default limits of a client in a minute: requests, and MiB sent. A message with a large mixture is one request per
tensor, some thousand at once, with few requests between two messages."""


@dataclass
class Pace:
    """An allowance that refills evenly, from empty to full in one minute (a token bucket).

    Attributes:
        minute: the full allowance.
        clock: returns monotonic seconds.
    """

    minute: float
    clock: Callable[[], float] = time.monotonic
    _left: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self._left, self._at = self.minute, self.clock()

    def takes(self, amount: float = 1) -> bool:
        """Takes an amount from the allowance; returns False, and takes nothing, if there is less left."""
        now = self.clock()
        self._left = min(self.minute, self._left + self.minute * (now - self._at) / 60)
        self._at = now
        if amount > self._left:
            return False
        self._left -= amount
        return True
