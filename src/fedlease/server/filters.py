"""Filters: what happens to models and updates on their way, with a half at the server and a half at the client.

A filter is where payloads are compressed, bounded, masked or recorded. Requests pass the filters in the order of the
settings, and the client halves in the reverse order; bytes are counted in between, on what travels. A final model goes
out as it is, so that the scores at the end are those of the model that the run folder holds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from fedlease.client.messages import Finish, Refused, Reply, Request, Train, Trained
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate
from fedlease.data.federation import ClientCard
from fedlease.errors import ConfigError
from fedlease.privacy.bfloat16 import Bfloat16
from fedlease.server.transport import Transport

__all__ = ["FILTERS", "Filter", "Filtered", "as_received", "as_sent", "client_half", "make_filters"]

Handle = Callable[[Request], Reply]


class Filter(Protocol):
    """Both halves of a filter. Each gives a new value and leaves its argument as it is."""

    def broadcast(self, model: ClientModel) -> ClientModel:
        """At the server: the model as it travels to a client."""

    def received(self, model: ClientModel) -> ClientModel:
        """At the client: the model as it is used, from what travelled."""

    def upload(self, task: ClientTask, update: ClientUpdate) -> ClientUpdate:
        """At the client: the update as it travels, for a task as the client received it."""

    def collected(self, task: ClientTask, update: ClientUpdate) -> ClientUpdate:
        """At the server: the update as it is checked and averaged, from what travelled."""


FILTERS: Mapping[str, Callable[[], Filter]] = {
    "bfloat16": Bfloat16,
}
"""Name in the setting ``filters`` -> how the filter is made."""


def make_filters(names: Sequence[str]) -> tuple[Filter, ...]:
    """The filters of the settings.

    Raises:
        ConfigError: no such filter.
    """
    if unknown := [name for name in names if name not in FILTERS]:
        raise ConfigError(f"filters: must be among {', '.join(FILTERS)}, received {', '.join(map(repr, unknown))}")
    return tuple(FILTERS[name]() for name in names)


@dataclass(frozen=True)
class Filtered:
    """A transport with the server halves of filters around it.

    Attributes:
        transport: carries what has been filtered.
        filters: in the order of the settings.
    """

    transport: Transport
    filters: Sequence[Filter]

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """Those of the transport."""
        return self.transport.clients()

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """Sends filtered requests and yields filtered replies; one that no filter can read is a refusal."""
        sent = dict(requests)
        for one in self.filters:
            sent = {client: _with_model(request, one.broadcast) for client, request in sent.items()}
        for client, reply in self.transport.send(sent):
            request = requests[client]
            try:
                for one in reversed(self.filters):
                    reply = _with_update(request, reply, one.collected)
            except Exception as error:  # one client's reply must not end the run, whatever is wrong with it
                reply = Refused(f"its update cannot be read: {type(error).__name__}")
            yield client, reply


def client_half(handle: Handle, filters: Sequence[Filter]) -> Handle:
    """A client's handler with the client halves of filters around it."""

    def filtered(request: Request) -> Reply:
        received = as_received(request, filters)
        return as_sent(received, handle(received), filters)

    return filtered


def as_received(request: Request, filters: Sequence[Filter]) -> Request:
    """A request as a client uses it."""
    for one in reversed(filters):
        request = _with_model(request, one.received)
    return request


def as_sent(request: Request, reply: Reply, filters: Sequence[Filter]) -> Reply:
    """A client's reply as it travels, to a request as the client received it."""
    for one in filters:
        reply = _with_update(request, reply, one.upload)
    return reply


def _with_model(request: Request, change: Callable[[ClientModel], ClientModel]) -> Request:
    if isinstance(request, Train):
        return replace(request, task=replace(request.task, model=change(request.task.model)))
    return request if isinstance(request, Finish) else replace(request, model=change(request.model))


def _with_update(request: Request, reply: Reply, change: Callable[[ClientTask, ClientUpdate], ClientUpdate]) -> Reply:
    if isinstance(request, Train) and isinstance(reply, Trained):
        return replace(reply, update=change(request.task, reply.update))
    return reply
