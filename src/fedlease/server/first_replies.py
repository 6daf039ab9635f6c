"""A schedule that closes a round after so many usable updates, so that nobody waits for the slowest clients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedlease.core.seeds import derive
from fedlease.core.types import ClientId
from fedlease.core.wording import counted

__all__ = ["FirstReplies"]


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
        """After so many usable updates, in rounds."""
        if round_ == 0 or usable < self.replies:
            return ""
        return f"the round was closed after {counted(self.replies, 'usable update')} (schedule.replies)"
