"""When a step ends.

Seconds are a client's, from its request to its reply, as if all clients worked at once: over Flower on the server's
clock, and on the client's own where that says more; in one process, where clients work one after another, each is timed
by its own work. There a deadline leaves out the same clients as between machines and saves no time.
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
    """Decides in which order clients are asked and when the server stops waiting for them."""

    def order(self, clients: Sequence[ClientId], round_: int, seed: int) -> Sequence[ClientId]:
        """The clients of a step in the order in which they are asked."""

    def closes(self, round_: int, usable: int) -> str:
        """Why a step is over although clients have not replied; empty where the server waits on.

        Args:
            round_: 0 during the warm-up.
            usable: updates of the step that can be used so far.
        """

    def seconds(self, round_: int) -> float | None:
        """Seconds that a client has for its reply; None: as long as the transport waits."""


@dataclass(frozen=True)
class AllReplies:
    """Waits for every client; how long, the transport decides."""

    def order(self, clients: Sequence[ClientId], round_: int, seed: int) -> Sequence[ClientId]:
        """The requests unchanged."""
        return clients

    def closes(self, round_: int, usable: int) -> str:
        """Never."""
        return ""

    def seconds(self, round_: int) -> float | None:
        """No limit."""
        return None


@dataclass(frozen=True)
class FirstReplies:
    """Takes the first updates of a round; the warm-up waits for everyone, since the allocation needs all.

    Attributes:
        replies: usable updates that close a round.
    """

    replies: int

    def order(self, clients: Sequence[ClientId], round_: int, seed: int) -> Sequence[ClientId]:
        """Drawn from seed and round: in one process nobody is faster, and the same clients would always be first."""
        drawn = np.random.default_rng(derive(seed, "schedule", round_)).permutation(len(clients))
        return [clients[i] for i in drawn.tolist()]

    def closes(self, round_: int, usable: int) -> str:
        """Ends a round after a number of usable updates."""
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
"""Value of ``schedule.until`` -> how the schedule is made of ``schedule.replies`` and ``schedule.seconds``."""


def make_schedule(until: str, replies: int, seconds: float | None = None) -> Schedule:
    """The schedule of the settings.

    Raises:
        ConfigError: no such schedule, or seconds that it does not read, or lacks.
    """
    if until not in SCHEDULES:
        raise ConfigError(f"schedule.until: must be one of {', '.join(SCHEDULES)}, received {until!r}")
    schedule = SCHEDULES[until](replies, seconds)
    if seconds is not None and schedule.seconds(1) is None:
        raise ConfigError(
            f"schedule.seconds: is read where schedule.until is deadline, received {seconds:g} with {until!r}"
        )
    return schedule
