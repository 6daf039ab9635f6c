"""Participation: the clients of a step, and the number of usable updates that it needs."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

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
        clients_per_round: number of clients asked in a round; None: all.
        min_clients: fewest usable updates of a step, also of a wave of the warm-up; fewer stop the run.
        eval_every: under sampling, number of rounds between two evaluations of all clients.
        score_rounds: whether models are scored before the end of the method.
    """

    clients_per_round: int | None = None
    min_clients: int = 1
    eval_every: int = 1
    score_rounds: bool = True

    def scores_everyone(self, round_: int) -> bool:
        """Whether clients that are not asked to train are scored in a round; False without sampling."""
        return self.score_rounds and self.clients_per_round is not None and round_ > 0 and round_ % self.eval_every == 0

    def choose(
        self,
        clients: Sequence[ClientId],
        task: Callable[[ClientId], ClientTask | None],
        round_: int,
        seed: int,
        first: int = 0,
        refused: Collection[ClientId] = (),
    ) -> dict[ClientId, ClientTask]:
        """Chooses the clients of a step among those that have a task.

        The warm-up asks all clients in waves of about equal size. A round asks a random sample, which depends only on
        seed and round.

        Args:
            clients: all clients, sorted.
            task: returns a client's task, or None if it has none; called only until enough clients are found.
            round_: 0 for the warm-up.
            seed: root seed.
            first: number of rounds that replace a method's warm-up; they ask all clients too, and are not counted in
                the seed of later samples, so that all methods have the same samples.
            refused: clients whose warm-up was refused before; they are asked again after all others.

        Returns:
            Client -> its task, sorted.
        """
        size, sampled = self.clients_per_round, round_ > first
        order = list(clients)
        if size is not None and sampled:
            drawn = np.random.default_rng(derive(seed, "participants", round_ - first))
            order = [clients[i] for i in drawn.permutation(len(clients)).tolist()]
        with_tasks = ((client, made) for client in order if (made := task(client)) is not None)
        due = dict(sorted(islice(with_tasks, size if sampled else None)))
        if size is None or size >= len(due) or round_:
            return due
        names = [client for client in due if client not in refused] or list(due)
        return {client: due[client] for client in names[: math.ceil(len(names) / math.ceil(len(names) / size))]}

    def quorum_fault(self, num_clients: int, *, waves: bool) -> str:
        """The reason why some step cannot have ``min_clients`` usable updates; empty if all can.

        Args:
            num_clients: number of clients that can be asked, which are those that can learn.
            waves: whether a method has a warm-up, which asks all clients in waves.
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
            TooFewUpdatesError: there are fewer than ``min_clients`` and fewer than were asked; the message has the
                reason of every refusal.
        """
        if usable < min(self.min_clients, asked):
            reasons = "; ".join(f"{client}: {reason}" for client, reason in sorted(refused.items()))
            raise TooFewUpdatesError(
                f"{method}, round {round_}: {usable} usable updates, min_clients asks for {self.min_clients}. {reasons}"
            )
