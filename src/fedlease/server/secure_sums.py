"""A transport beneath which the updates of a group are summed, so that the server sees no single one of them.

Around each step it has the message rounds of :mod:`fedlease.client.sum_messages`. Every client whose update is in a sum
then replies with the mean of its group, weighted as the method weights it: the mean of equal updates is what they are,
so that a method which needs nothing but means of groups goes on as ever.
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
    """What carries the messages of secure sums: the innermost transport."""

    def ask(self, asked: Mapping[ClientId, SumAsk]) -> Iterator[tuple[ClientId, Any]]:
        """Sends every client its message and yields what comes back, unchecked."""


@dataclass(frozen=True)
class SecureSums:
    """Sums the updates of tasks after the warm-up, group by group.

    Attributes:
        transport: carries requests and replies, with its filters around it.
        asking: carries the messages of sums, which pass no filter.
        cards: client -> its card.
        rules: of the settings.
    """

    transport: Transport
    asking: Asking
    cards: Mapping[ClientId, ClientCard]
    rules: Rules

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """Those of the transport."""
        return self.transport.clients()

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """See :class:`~fedlease.server.transport.Transport`; sums come last, when they are whole."""
        groups = _groups(requests)
        for members in groups.values():
            if len(members) < LEAST:
                few = counted(len(members), "client")
                why = f"{few} of its cluster {'was' if len(members) == 1 else 'were'} asked, a secure sum needs {LEAST}"
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
        alone = {client: request for client, request in requests.items() if client not in _members(groups)}
        masked = {client: request for one in sums for client, request in one.train_requests().items()}
        # In the order of the requests, which the schedule has chosen.
        both = {client: {**alone, **masked}[client] for client in requests if client in alone or client in masked}
        came = set()
        for client, reply in self.transport.send(both) if both else ():
            came.add(client)
            if client in masked:
                of[client].take_masked(client, reply)
            else:
                # Whatever it says, it is the client's own.
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
    """Clients that are asked for an update after the warm-up, by group and by what they upload."""
    found: dict[Any, dict[ClientId, Train]] = {}
    for client, request in requests.items():
        if isinstance(request, Train) and is_summed(request.task):
            layout = tuple((name, tuple(tensor.shape)) for name, tensor in request.task.expected.items())
            found.setdefault((request.group, layout), {})[client] = request
    return found


def _members(groups: Mapping[Any, Mapping[ClientId, Train]]) -> set[ClientId]:
    return {client for members in groups.values() for client in members}
