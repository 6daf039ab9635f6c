"""Participation: the clients of a step, and the number of usable updates that it needs."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from fedlease.core.seeds import derive
from fedlease.core.types import ClientId, ClientTask
from fedlease.core.wording import counted
from fedlease.errors import TooFewUpdatesError

__all__ = ["Participation"]


@dataclass(frozen=True)
class Participation:
    """The rule by which clients take part.

    Attributes:
        clients_per_round: asked each round, or None for all.
        min_clients: fewer usable updates in a step, a wave of the warm-up too, stop the run.
        eval_every: under sampling, rounds between evaluations of everyone.
        score_rounds: whether models are scored before the end at all.
    """

    clients_per_round: int | None = None
    min_clients: int = 1
    eval_every: int = 1
    score_rounds: bool = True

    def scores_everyone(self, round_: int) -> bool:
        """Whether clients that are not asked are scored too; without sampling there are none."""
        return self.score_rounds and self.clients_per_round is not None and round_ > 0 and round_ % self.eval_every == 0

    def choose(
        self,
        tasks: Mapping[ClientId, ClientTask],
        round_: int,
        seed: int,
        first: int = 0,
        refused: Collection[ClientId] = (),
    ) -> list[ClientId]:
        """Warm-up: the next wave, everyone in turn, in waves as even as can be. Rounds: a sample that depends on seed
        and round alone.

        Args:
            tasks: of all clients that have one.
            round_: 0 is the warm-up.
            seed: root seed.
            first: rounds that a method has instead of a warm-up; they ask everyone too, so that all methods train
                as much, and what follows has the samples that it has after a warm-up.
            refused: clients whose warm-up was refused before: they are asked again when everyone has been asked once.
        """
        due, size = list(tasks), self.clients_per_round
        if size is None or size >= len(due) or 0 < round_ <= first:
            return due
        if round_ == 0:
            due = [client for client in due if client not in refused] or due
            return due[: math.ceil(len(due) / math.ceil(len(due) / size))]
        drawn = np.random.default_rng(derive(seed, "participants", round_ - first))
        chosen = drawn.permutation(len(due))[:size]
        return [due[i] for i in sorted(chosen.tolist())]

    def quorum_fault(self, num_clients: int, *, waves: bool) -> str:
        """Why no step, or not every step, can have ``min_clients`` usable updates; empty where all can.

        Args:
            num_clients: that can be asked: those that can learn.
            waves: whether some method has a warm-up, which asks everyone in waves.
        """
        needed, size = self.min_clients, self.clients_per_round
        if needed > num_clients:
            many = f"{'is' if num_clients == 1 else 'are'} {counted(num_clients, 'client')}"
            return f"min_clients: {needed} usable updates are needed in every step, and there {many} that can be asked"
        if size is None or size >= num_clients:
            return ""
        if needed > size:
            return f"min_clients: must be at most clients_per_round = {size}, received {needed}"
        count = math.ceil(num_clients / size)
        least = num_clients // count
        if waves and needed > least:
            return (
                f"min_clients: {needed} usable updates are needed in every step, and the warm-up asks {num_clients} "
                f"clients in {count} waves of at most clients_per_round = {size}, the smallest of {least}"
            )
        return ""

    def require(self, method: str, round_: int, usable: int, asked: int, refused: Mapping[ClientId, str]) -> None:
        """Stops a run whose step has too few usable updates.

        Raises:
            TooFewUpdatesError: fewer than ``min_clients``, or fewer than were asked where the method asks fewer; the
                message holds every refusal's reason.
        """
        if usable < min(self.min_clients, asked):
            reasons = "; ".join(f"{client}: {reason}" for client, reason in sorted(refused.items()))
            raise TooFewUpdatesError(
                f"{method}, round {round_}: {usable} usable updates, min_clients asks for {self.min_clients}. {reasons}"
            )
