"""A schedule that ends rounds after a number of seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedlease.core.types import ClientId
from fedlease.errors import ConfigError

__all__ = ["Deadline", "late"]


@dataclass(frozen=True)
class Deadline:
    """Uses the updates that arrive in time; the warm-up waits for every client, since the allocation needs all.

    Attributes:
        limit: duration of a round, in seconds.

    Raises:
        ConfigError: ``limit`` is None.
    """

    limit: float | None

    def __post_init__(self) -> None:
        if self.limit is None:
            raise ConfigError("schedule.seconds: must be given if schedule.until is deadline, received None")

    def order(self, clients: Sequence[ClientId], round_: int, seed: int) -> Sequence[ClientId]:
        """The given order, which has no effect: clients work at the same time, or each is timed by its own work."""
        return clients

    def closes(self, round_: int, usable: int) -> str:
        """Never closes a round by the number of updates."""
        return ""

    def seconds(self, round_: int) -> float | None:
        """The limit in rounds; None in the warm-up."""
        return self.limit if round_ else None


def late(seconds: float) -> str:
    """The reason why an update that did not arrive in time is not used."""
    return f"did not reply within {seconds:g} s (schedule.seconds)"
