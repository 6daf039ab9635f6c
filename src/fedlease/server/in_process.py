"""All clients on one machine: one resident base model, clients one after another."""

from collections.abc import Iterator, Mapping
from typing import Any

from fedlease.client.store import BOOK_SLOT, ClientStore
from fedlease.client.worker import Client, ClientWork, FinalScores
from fedlease.core.types import ClientId, ClientModel, ClientTask, Tensors
from fedlease.errors import RunFolderError, UpdateRefusedError
from fedlease.server.events import BatchTrained, Listener
from fedlease.server.transport import Outcome, count_bytes

__all__ = ["LocalFleet"]


class LocalFleet:
    """Clients in this process; what they keep goes into the run's own checkpoint.

    Args:
        clients: all of them, by id.
        work: on the resident model.
    """

    def __init__(self, clients: Mapping[ClientId, Client], work: ClientWork) -> None:
        self.clients = clients
        self.client_work = work
        self._pending: dict[ClientId, Tensors] = {}

    def rows(self) -> Mapping[ClientId, int]:
        """Client -> train rows that count."""
        return {client: own.data.weight for client, own in self.clients.items()}

    def work(
        self, method: str, step: int, tasks: Mapping[ClientId, ClientTask], tell: Listener
    ) -> Iterator[tuple[ClientId, Outcome]]:
        """One client after another, each when it is asked for."""
        for client, task in tasks.items():

            def on_batch(done: int, total: int, loss: float, client: ClientId = client) -> None:
                tell(BatchTrained(method, client, done, total, loss))

            try:
                answer, self._pending[client] = self.client_work.train(self.clients[client], task, on_batch)
            except UpdateRefusedError as error:
                yield client, error
                continue
            yield client, answer

    def accept(self, step: int, tasks: Mapping[ClientId, ClientTask], models: Mapping[ClientId, ClientModel]) -> None:
        """Keeps the private tensors of accepted updates, and forgets those of shapes that are no longer in use."""
        store = self.client_work.store
        for client, task in tasks.items():
            store.put(client, task.model.spec, self._pending[client])
        self._pending = {}
        store.forget_other_specs({client: model.spec for client, model in models.items()})

    def score(self, models: Mapping[ClientId, ClientModel]) -> Mapping[ClientId, float]:
        """One client after another."""
        return {c: self.client_work.score(self.clients[c], m) for c, m in models.items() if len(self.clients[c].test)}

    def finish(
        self, models: Mapping[ClientId, ClientModel], untrained: Mapping[ClientId, ClientModel]
    ) -> Mapping[ClientId, FinalScores]:
        """One client after another."""
        # Before the loop: scoring the bare base between mixtures would rebuild the adapter for every client.
        for client in (client for client in models if len(self.clients[client].test)):
            self.client_work.bare(self.clients[client], untrained[client])
        return {c: self.client_work.finish(self.clients[c], model, untrained[c]) for c, model in models.items()}

    def unscored(self) -> Mapping[ClientId, str]:
        """Nobody: all are here."""
        return {}

    def count(self, task: ClientTask, client: ClientId, totals: dict[str, float]) -> None:
        """All that the task moves, as if the client were elsewhere."""
        count_bytes(task, totals)

    def private(self) -> Mapping[ClientId, Mapping[str, Tensors]]:
        """What every client keeps."""
        return self.client_work.store.slots

    def restore(self, private: Mapping[ClientId, Mapping[str, Any]]) -> None:
        """Puts back what every client kept.

        Raises:
            RunFolderError: clients keep it themselves, on other machines.
        """
        elsewhere = sorted(client for client, slots in private.items() if BOOK_SLOT in slots)
        if elsewhere:
            raise RunFolderError(
                f"client {elsewhere[0]!r} keeps a part of its model on its own machine, so the run cannot go on here: "
                "start the Flower server with the same out again, or give --engine flower"
            )
        self.client_work.store = ClientStore({client: dict(slots) for client, slots in private.items()})

    def newcomers(self) -> Mapping[ClientId, int]:
        """Nobody: late clients are onboarded in a finished run."""
        return {}
