"""Who is asked in a step, and how many usable answers it needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedlease.core.seeds import derive
from fedlease.core.types import ClientId, ClientTask
from fedlease.errors import TooFewUpdatesError

__all__ = ["Participation"]


@dataclass(frozen=True)
class Participation:
    """Who takes part.

    Attributes:
        clients_per_round: asked each round, or None for all.
        min_clients: fewer usable updates stop the run.
        eval_every: under sampling, rounds between evaluations of everyone.
        score_rounds: whether models are scored before the end at all.
    """

    clients_per_round: int | None = None
    min_clients: int = 1
    eval_every: int = 1
    score_rounds: bool = True

    def everyone(self) -> "Participation":
        """Without sampling."""
        return replace(self, clients_per_round=None, min_clients=1)

    def scores_everyone(self, round_: int) -> bool:
        """Whether clients that are not asked are scored too; without sampling there are none."""
        return self.score_rounds and self.clients_per_round is not None and round_ > 0 and round_ % self.eval_every == 0

    def choose(self, tasks: Mapping[ClientId, ClientTask], round_: int, seed: int, first: int = 0) -> list[ClientId]:
        """Warm-up: the next wave, everyone in turn. Rounds: a sample that depends on seed and round alone.

        Args:
            tasks: of all clients that have one.
            round_: 0 is the warm-up.
            seed: root seed.
            first: rounds that a method has in the place of a warm-up; they ask everyone too, so that all methods train
                as much, and what follows has the samples that it has after a warm-up.
        """
        due, size = list(tasks), self.clients_per_round
        if size is None or size >= len(due) or 0 < round_ <= first:
            return due
        if round_ == 0:
            return due[:size]
        drawn = np.random.default_rng(derive(seed, "participants", round_ - first))
        chosen = drawn.permutation(len(due))[:size]
        return [due[i] for i in sorted(chosen.tolist())]

    def require(
        self,
        method: str,
        round_: int,
        usable: int,
        refused: Mapping[ClientId, str],
        asked: Sequence[ClientId],
        num_clients: int,
    ) -> None:
        """Stops a run whose step has too few usable updates.

        Raises:
            TooFewUpdatesError: fewer than ``min_clients``; the message holds every refusal's reason.
        """
        needed = min(self.min_clients, len(asked))
        if round_ == 0 and len(asked) < num_clients:
            return  # a wave, or a second try: whoever is refused joins later
        if usable < needed:
            reasons = "; ".join(f"{client}: {reason}" for client, reason in sorted(refused.items()))
            raise TooFewUpdatesError(
                f"{method}, round {round_}: {usable} usable updates, min_clients asks for {needed}. {reasons}"
            )
