"""All clients on one machine: one resident base model, clients one after another."""

from collections.abc import Iterator, Mapping
from typing import Any

from fedlease.client.messages import FinalScores, Finish, Finished, Refused, Score, Scored, Train, Trained
from fedlease.client.store import ELSEWHERE, Private
from fedlease.client.worker import ClientWorker
from fedlease.core.types import ClientId, ClientModel, ClientTask, Tensors
from fedlease.errors import RunFolderError, UpdateRefusedError
from fedlease.server.events import BatchTrained, Listener
from fedlease.server.transport import Outcome, count_bytes

__all__ = ["LocalFleet"]


class LocalFleet:
    """Clients in this process; what they keep goes into the run's own checkpoint.

    Args:
        method: name.
        workers: of all clients, by id.
    """

    def __init__(self, method: str, workers: Mapping[ClientId, ClientWorker]) -> None:
        self.method = method
        self.workers = workers
        self._accepted: dict[ClientId, int] = {}

    def rows(self) -> Mapping[ClientId, int]:
        """Client -> train rows that count."""
        return {client: worker.client.data.weight for client, worker in self.workers.items()}

    def work(
        self, method: str, step: int, tasks: Mapping[ClientId, ClientTask], tell: Listener
    ) -> Iterator[tuple[ClientId, Outcome]]:
        """One client after another, each when it is asked for."""

        def on_batch(client: ClientId, done: int, total: int, loss: float) -> None:
            tell(BatchTrained(method, client, done, total, loss))

        for client, task in tasks.items():
            self.workers[client].on_batch = on_batch
            reply = self.workers[client].handle(Train(method, step, task, self._accepted.get(client)))
            if isinstance(reply, Refused):
                yield client, UpdateRefusedError(client, reply.reason)
            else:
                assert isinstance(reply, Trained)
                yield client, reply

    def accept(self, step: int, tasks: Mapping[ClientId, ClientTask], models: Mapping[ClientId, ClientModel]) -> None:
        """Keeps the private tensors of accepted updates, and forgets those of shapes that are no longer in use."""
        self._accepted |= dict.fromkeys(tasks, step)
        for client, model in models.items():
            worker = self.workers[client]
            worker.private = worker.private.accepted(self._accepted.get(client), model.spec)

    def score(self, models: Mapping[ClientId, ClientModel]) -> Mapping[ClientId, float]:
        """One client after another."""
        scores = {}
        for client, model in models.items():
            if len(self.workers[client].client.test):
                reply = self.workers[client].handle(Score(self.method, model, self._accepted.get(client)))
                assert isinstance(reply, Scored)
                scores[client] = reply.score
        return scores

    def finish(
        self, models: Mapping[ClientId, ClientModel], untrained: Mapping[ClientId, ClientModel]
    ) -> Mapping[ClientId, FinalScores]:
        """One client after another."""
        # Before the loop: scoring the bare base between mixtures would rebuild the adapter for every client.
        for client in (client for client in models if len(self.workers[client].client.test)):
            self.workers[client].score_untrained(untrained[client])
        found = {}
        for client, model in models.items():
            request = Finish(self.method, model, untrained[client], self._accepted.get(client))
            reply = self.workers[client].handle(request)
            assert isinstance(reply, Finished)
            found[client] = reply.scores
        return found

    def unscored(self) -> Mapping[ClientId, str]:
        """Nobody: all are here."""
        return {}

    def count(self, task: ClientTask, client: ClientId, totals: dict[str, float]) -> None:
        """All that the task moves, as if the client were elsewhere."""
        count_bytes(task, totals)

    def private(self) -> Mapping[ClientId, Mapping[str, Tensors]]:
        """What every client keeps."""
        return {client: worker.private.slots for client, worker in self.workers.items() if worker.private.slots}

    def restore(self, private: Mapping[ClientId, Mapping[str, Any]]) -> None:
        """Puts back what every client kept.

        Raises:
            RunFolderError: clients keep it themselves, on other machines.
        """
        elsewhere = sorted(client for client, slots in private.items() if ELSEWHERE in slots)
        if elsewhere:
            raise RunFolderError(
                f"client {elsewhere[0]!r} keeps a part of its model on its own machine, so the run cannot go on here: "
                "start the Flower server with the same out again, or give --engine flower"
            )
        self._accepted = dict.fromkeys(private, 0)
        for client, worker in self.workers.items():
            worker.private = Private(dict(private.get(client, {})))

    def newcomers(self) -> Mapping[ClientId, int]:
        """Nobody: late clients are onboarded in a finished run."""
        return {}
