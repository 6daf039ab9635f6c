"""A transport that sums the updates of a group securely, so that the server sees no single update.

In each step it runs the message rounds of :mod:`fedlease.client.sum_messages`. It then returns the weighted mean of a
group as the update of every client in it. The mean of equal updates is the update itself, so that methods that need
only means of groups do not change.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

from fedlease.client.messages import Refused, Reply, Request, Train, Trained
from fedlease.client.sum_messages import LEAST, SumAsk, is_summed
from fedlease.core.types import ClientId
from fedlease.core.wording import counted
from fedlease.data.federation import ClientCard
from fedlease.server.group_sum import GroupSum, Rules
from fedlease.server.transport import Transport

__all__ = ["Asking", "SecureSums"]


class Asking(Protocol):
    """The part of a transport that carries the messages of secure sums."""

    def ask(self, asked: Mapping[ClientId, SumAsk]) -> Iterator[tuple[ClientId, Any]]:
        """Sends every client its message and yields the unchecked replies."""


@dataclass(frozen=True)
class SecureSums:
    """A transport that sums the updates of tasks after the warm-up, group by group.

    Attributes:
        transport: carries requests and replies, including its filters.
        asking: carries the messages of sums, which are not filtered.
        cards: client -> its card.
        rules: settings of the sums.
    """

    transport: Transport
    asking: Asking
    cards: Mapping[ClientId, ClientCard]
    rules: Rules

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """The clients of the transport."""
        return self.transport.clients()

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """See :class:`~fedlease.server.transport.Transport`; replies of summed clients are yielded last."""
        groups = _groups(requests)
        for members in groups.values():
            if len(members) < LEAST:
                few = counted(len(members), "client of its cluster was", "clients of its cluster were")
                why = f"only {few} asked, and a secure sum needs {LEAST}"
                yield from ((client, Refused(why)) for client in members)
        sums = [
            GroupSum(members, {client: self.cards[client].train_rows for client in members}, self.rules)
            for members in groups.values()
            if len(members) >= LEAST
        ]
        of = {client: one for one in sums for client in one.requests}
        for client, told in self._ask([one.key_asks() for one in sums]):
            of[client].take_keys(client, told)
        for client, told in self._ask([one.share_asks() for one in sums]):
            of[client].take_shares(client, told)
        grouped = {client for members in groups.values() for client in members}
        masked = {client: request for one in sums for client, request in one.train_requests().items()}
        # In the order of the requests, which the schedule has chosen.
        both = {c: masked.get(c, request) for c, request in requests.items() if c in masked or c not in grouped}
        came = set()
        for client, reply in self.transport.send(both) if both else ():
            came.add(client)
            if client in masked:
                of[client].take_masked(client, reply)
            else:
                # A client's own update is never a sum, whatever the client says.
                yield client, replace(reply, summed=0) if isinstance(reply, Trained) else reply
        for client in masked.keys() - came:
            of[client].late.add(client)
        for client, told in self._ask([one.seed_asks() for one in sums]):
            of[client].take_seeds(client, told)
        yield from chain.from_iterable(one.replies() for one in sums)

    def _ask(self, asks: list[Any]) -> Iterator[tuple[ClientId, Any]]:
        asked = {client: ask for one in asks for client, ask in one.items()}
        return self.asking.ask(asked) if asked else iter(())


def _groups(requests: Mapping[ClientId, Request]) -> dict[Any, dict[ClientId, Train]]:
    """Requests for updates after the warm-up, grouped by the client's group and the shapes of its upload."""
    found: dict[Any, dict[ClientId, Train]] = {}
    for client, request in requests.items():
        if isinstance(request, Train) and is_summed(request.task):
            layout = tuple((name, tuple(tensor.shape)) for name, tensor in request.task.expected.items())
            found.setdefault((request.group, layout), {})[client] = request
    return found
