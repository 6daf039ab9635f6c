"""Schedules, which decide when a step ends.

A client's seconds run from its request to its reply, as if all clients worked at once. Over Flower they are taken from
the server's clock, or from the client's own if that shows more. In one process, where clients work one by one, they are
those of the client's own work, so that a deadline leaves out slow clients but saves no time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedlease.core.seeds import derive
from fedlease.core.types import ClientId
from fedlease.core.wording import counted
from fedlease.errors import ConfigError
from fedlease.server.deadline import Deadline

__all__ = ["SCHEDULES", "AllReplies", "FirstReplies", "Schedule", "make_schedule"]


class Schedule(Protocol):
    """A rule for the order in which clients are asked, and for the end of a step."""

    def order(self, clients: Sequence[ClientId], round_: int, seed: int) -> Sequence[ClientId]:
        """The clients of a step in the order in which they are asked."""

    def closes(self, round_: int, usable: int) -> str:
        """The reason for ending a step before all clients have replied; empty to go on waiting.

        Args:
            round_: 0 during the warm-up.
            usable: number of usable updates of the step so far.
        """

    def seconds(self, round_: int) -> float | None:
        """Time that a client has for its reply, in seconds; None: as long as the transport waits."""


@dataclass(frozen=True)
class AllReplies:
    """Waits for every client, as long as the transport does."""

    def order(self, clients: Sequence[ClientId], round_: int, seed: int) -> Sequence[ClientId]:
        """The given order."""
        return clients

    def closes(self, round_: int, usable: int) -> str:
        """Never ends a step early."""
        return ""

    def seconds(self, round_: int) -> float | None:
        """No limit."""
        return None


@dataclass(frozen=True)
class FirstReplies:
    """Uses the first updates of a round; the warm-up waits for every client, since the allocation needs all.

    Attributes:
        replies: number of usable updates after which a round ends.
    """

    replies: int

    def order(self, clients: Sequence[ClientId], round_: int, seed: int) -> Sequence[ClientId]:
        """A random order: in one process, the same clients would otherwise be the first in every round."""
        drawn = np.random.default_rng(derive(seed, "schedule", round_)).permutation(len(clients))
        return [clients[i] for i in drawn.tolist()]

    def closes(self, round_: int, usable: int) -> str:
        """Ends a round after ``replies`` usable updates."""
        if round_ == 0 or usable < self.replies:
            return ""
        return f"the round was closed after {counted(self.replies, 'usable update')} (schedule.replies)"

    def seconds(self, round_: int) -> float | None:
        """No limit."""
        return None


SCHEDULES: Mapping[str, Callable[[int, float | None], Schedule]] = {
    "all": lambda replies, seconds: AllReplies(),
    "deadline": lambda replies, seconds: Deadline(seconds),
    "first": lambda replies, seconds: FirstReplies(replies),
}
"""Value of ``schedule.until`` -> function that makes the schedule of ``schedule.replies`` and ``schedule.seconds``."""


def make_schedule(until: str, replies: int, seconds: float | None = None) -> Schedule:
    """The schedule of the settings.

    Raises:
        ConfigError: the schedule does not exist, needs seconds, or does not use the given ones.
    """
    if until not in SCHEDULES:
        raise ConfigError(f"schedule.until: must be one of {', '.join(SCHEDULES)}, received {until!r}")
    schedule = SCHEDULES[until](replies, seconds)
    if seconds is not None and schedule.seconds(1) is None:
        raise ConfigError(
            f"schedule.seconds: is only used if schedule.until is deadline, received {seconds:g} with {until!r}"
        )
    return schedule
