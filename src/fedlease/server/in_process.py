"""All clients on one machine: one resident base model, clients one after another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedlease.client.messages import Finish, Reply, Request
from fedlease.client.worker import ClientWorker
from fedlease.core.types import ClientId
from fedlease.data.federation import ClientCard
from fedlease.server.filters import Filter, client_half
from fedlease.server.transport import Traffic

__all__ = ["InProcess"]


@dataclass(frozen=True)
class InProcess:
    """Clients in this process; late ones are onboarded in a finished run.

    Attributes:
        cards: client -> what is known of it.
        workers: client -> what handles its requests.
        traffic: counts what would travel.
        filters: those whose client half is here.
    """

    cards: Mapping[ClientId, ClientCard]
    workers: Mapping[ClientId, ClientWorker]
    traffic: Traffic
    filters: Sequence[Filter] = ()

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """See :class:`~fedlease.server.transport.Transport`."""
        return self.cards

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """One client after another, each when its reply is taken."""
        for client, request in requests.items():
            # Before the loop: scoring the bare base between mixtures would rebuild the adapter for every client.
            if isinstance(request, Finish) and len(self.workers[client].client.test):
                self.workers[client].score_untrained(request.untrained)
        for client, request in requests.items():
            self.traffic.request(request)
            reply = client_half(self.workers[client].handle, self.filters)(request)
            self.traffic.reply(reply)
            yield client, reply
