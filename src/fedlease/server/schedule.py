"""When a step ends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedlease.core.types import ClientId
from fedlease.errors import ConfigError
from fedlease.server.first_replies import FirstReplies

__all__ = ["SCHEDULES", "AllReplies", "Schedule", "make_schedule"]


class Schedule(Protocol):
    """Decides in which order clients are asked and when the server stops waiting for them."""

    def order(self, clients: Sequence[ClientId], round_: int, seed: int) -> Sequence[ClientId]:
        """The clients of a step in the order in which they are asked."""

    def closes(self, round_: int, usable: int) -> str:
        """Why a step is over although clients have not replied; empty where the server waits on.

        Args:
            round_: 0 during the warm-up.
            usable: updates of the step that can be used so far.
        """


@dataclass(frozen=True)
class AllReplies:
    """Waits for every client; how long, the transport decides."""

    def order(self, clients: Sequence[ClientId], round_: int, seed: int) -> Sequence[ClientId]:
        """As they are."""
        return clients

    def closes(self, round_: int, usable: int) -> str:
        """Never."""
        return ""


SCHEDULES: Mapping[str, Callable[[int], Schedule]] = {
    "all": lambda replies: AllReplies(),
    "first": FirstReplies,
}
"""Value of ``schedule.until`` -> how the schedule is made of ``schedule.replies``."""


def make_schedule(until: str, replies: int) -> Schedule:
    """The schedule of the settings.

    Raises:
        ConfigError: no such schedule.
    """
    if until not in SCHEDULES:
        raise ConfigError(f"schedule.until: must be one of {', '.join(SCHEDULES)}, received {until!r}")
    return SCHEDULES[until](replies)
