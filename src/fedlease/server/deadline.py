"""A round that ends after a number of seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedlease.core.types import ClientId
from fedlease.errors import ConfigError

__all__ = ["Deadline", "late"]


@dataclass(frozen=True)
class Deadline:
    """Takes the updates that are there in time; the warm-up waits for everyone, since the allocation needs all.

    Attributes:
        limit: seconds of a round.

    Raises:
        ConfigError: no seconds are given.
    """

    limit: float | None

    def __post_init__(self) -> None:
        if self.limit is None:
            raise ConfigError("schedule.seconds: must be given where schedule.until is deadline, received None")

    def order(self, clients: Sequence[ClientId], round_: int, seed: int) -> Sequence[ClientId]:
        """The requests unchanged: clients work at the same time, or are timed by their own work."""
        return clients

    def closes(self, round_: int, usable: int) -> str:
        """Never by number."""
        return ""

    def seconds(self, round_: int) -> float | None:
        """The limit, in rounds."""
        return self.limit if round_ else None


def late(seconds: float) -> str:
    """Why an update is not used that was not there in time."""
    return f"did not reply within {seconds:g} s (schedule.seconds)"
