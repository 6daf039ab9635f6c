"""How much of anything may pass in a time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Pace"]


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
