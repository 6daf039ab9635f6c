"""Filters: what happens to models and updates on their way, with a half at the server and a half at the client.

A filter is where payloads are compressed, bounded, masked or recorded. Requests pass the filters in the order of the
settings, and the client halves in the reverse order; bytes are counted in between, on what travels. A final model goes
out as it is, so that the scores at the end are those of the model that the run folder holds.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from fedlease.client.messages import Finish, Lacks, Refused, Reply, Request, Train, Trained
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Tensors
from fedlease.data.federation import ClientCard
from fedlease.errors import ConfigError
from fedlease.privacy.bfloat16 import Bfloat16
from fedlease.privacy.differences import MOST_BYTES, Differences, flat
from fedlease.privacy.memory import Memory
from fedlease.privacy.packing import PackingError
from fedlease.server.memories import Memories
from fedlease.server.transport import Transport

__all__ = ["FILTERS", "Filter", "Filtered", "as_received", "as_sent", "make_filters", "received_here", "sent_here"]


class Filter(Protocol):
    """Both halves of a filter, which return new values and do not modify their arguments.

    ``received`` and ``residual`` are what the filter returned for the client before: the tensors that it has received,
    and the rounding errors of its last update that was used. Tensors named in ``aside`` pass unchanged.
    """

    def broadcast(
        self,
        models: Mapping[ClientId, ClientModel],
        received: Mapping[ClientId, Tensors],
        aside: Mapping[ClientId, Collection[str]],
    ) -> tuple[dict[ClientId, ClientModel], dict[ClientId, Tensors]]:
        """At the server: encodes models for clients; also returns the tensors that each client will have decoded."""

    def whole(self, model: ClientModel, received: Tensors) -> ClientModel:
        """At the server: a model that needs no tensors kept by a client, with ``received`` as the decoded tensors."""

    def received(self, model: ClientModel, received: Tensors, aside: Collection[str]) -> tuple[ClientModel, Tensors]:
        """At the client: decodes a model; also returns the tensors that the client has now."""

    def upload(self, task: ClientTask, update: ClientUpdate, residual: Tensors) -> tuple[ClientUpdate, Tensors]:
        """At the client: encodes an update for a task as the client received it; also returns the new residual."""

    def collected(self, task: ClientTask, update: ClientUpdate) -> ClientUpdate:
        """At the server: decodes an update, which is then checked and averaged."""


FILTERS: Mapping[str, Callable[[Tensors, int], Filter]] = {
    "bfloat16": lambda start, most: Bfloat16(),
    "changed": lambda start, most: Differences(32, start, most),
    "int8": lambda start, most: Differences(8, start, most),
    "int4": lambda start, most: Differences(4, start, most),
}
"""Name in the setting ``filters`` -> function that makes the filter, of the initial adapter's tensors and the largest
size in bytes to which a model may unpack."""

LAST = ("changed", "int8", "int4")
"""Filters that remember what they have sent and must come last, so that no other filter changes it."""


def make_filters(names: Sequence[str], start: Tensors | None = None, most: int = MOST_BYTES) -> tuple[Filter, ...]:
    """Makes the filters of the settings, plus one that does not resend tensors that clients keep, if none does yet.

    Args:
        names: in the order of the settings.
        start: tensors of the adapter that all clients start from.
        most: largest size of one model's tensors, in bytes.

    Raises:
        ConfigError: a filter does not exist, or is not allowed at its place.
    """
    if unknown := [name for name in names if name not in FILTERS]:
        raise ConfigError(f"filters: must be among {', '.join(FILTERS)}, received {', '.join(map(repr, unknown))}")
    if early := [name for name in names[:-1] if name in LAST]:
        raise ConfigError(
            f"filters: only the last filter may be one of {', '.join(LAST)}, since it builds on what has arrived; "
            f"received [{', '.join(names)}] with {early[0]!r} before the end"
        )
    kept = () if set(names) & set(LAST) else (Differences(32, start or {}, most, kept_alone=True),)
    return (*(FILTERS[name](start or {}, most) for name in names), *kept)


@dataclass(frozen=True)
class Filtered:
    """A transport with the server halves of filters around it.

    Attributes:
        transport: carries the filtered requests and replies.
        filters: in the order of the settings.
        memories: memories of the filters about all clients.
    """

    transport: Transport
    filters: Sequence[Filter]
    memories: Memories = field(default_factory=Memories)

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """The clients of the transport."""
        return self.transport.clients()

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """Sends filtered requests and yields filtered replies; a reply that cannot be decoded becomes a refusal.

        A client that lacks the tensors on which its request builds is sent the same model whole.
        """
        sent, left = self._sent(requests)
        lacking = []
        for client, reply in self.transport.send(sent):
            if isinstance(reply, Lacks):
                lacking.append(client)
            else:
                yield client, self._collected(client, requests[client], reply, left)
        whole = {client: self._whole(requests[client], left.get(client, {})) for client in lacking}
        for client, reply in self.transport.send(whole) if whole else ():
            yield client, self._collected(client, requests[client], reply, left)

    def _sent(self, requests: Mapping[ClientId, Request]) -> tuple[dict[ClientId, Request], dict[ClientId, Tensors]]:
        asked = {client: request for client, request in requests.items() if not isinstance(request, Finish)}
        received = self.memories.received
        aside = {client: _aside(request, received.get(client, {})) for client, request in asked.items()}
        models, left = {client: request.model for client, request in asked.items()}, dict[ClientId, Tensors]()
        for one in self.filters:
            models, left = one.broadcast(models, received, aside)
        return {c: _with_model(r, models[c]) if c in models else r for c, r in requests.items()}, left

    def _whole(self, request: Request, left: Tensors) -> Request:
        model = request.model
        for one in self.filters:
            model = one.whole(model, left)
        return _with_model(request, model)

    def _collected(self, client: ClientId, request: Request, reply: Reply, left: Mapping[ClientId, Tensors]) -> Reply:
        if client in left and not isinstance(reply, Refused | Lacks):
            before = {} if isinstance(request, Train) else self.memories.received.get(client, {})
            if (now := {**before, **left[client]}) or client in self.memories.received:
                self.memories.received[client] = now
        if not isinstance(request, Train) or not isinstance(reply, Trained):
            return reply
        update = reply.update
        try:
            for one in reversed(self.filters):
                update = one.collected(request.task, update)
        except PackingError as error:
            return Refused(f"its update cannot be read: {error}")
        except Exception as error:  # no client's reply may end the run, whatever is wrong with it
            return Refused(f"its update cannot be read: {type(error).__name__}")
        return replace(reply, update=update)


def as_received(request: Request, filters: Sequence[Filter], memory: Memory) -> tuple[Request, Memory]:
    """Decodes a request at the client; also returns the client's new memory.

    Raises:
        LacksBaseError: the request builds on tensors that this client does not have.
        PackingError: the request cannot be decoded.
    """
    memory = memory.accepted(request.accepted)
    if isinstance(request, Finish):
        return request, memory
    aside, model, left = _aside(request, memory.received), request.model, dict[str, Tensor]()
    for one in reversed(filters):
        model, found = one.received(model, memory.received, aside)
        left |= found
    before = {} if isinstance(request, Train) else memory.received
    return _with_model(request, model), replace(memory, received={**before, **left})


def as_sent(request: Request, reply: Reply, filters: Sequence[Filter], memory: Memory) -> tuple[Reply, Memory]:
    """Encodes a client's reply to a decoded request; also returns the client's new memory."""
    if not isinstance(request, Train) or not isinstance(reply, Trained):
        return reply, memory
    update, spec, left = reply.update, request.model.spec.fingerprint(), dict[str, Tensor]()
    for one in filters:
        update, found = one.upload(request.task, update, memory.residual.get(spec, {}))
        left |= found
    return replace(reply, update=update), memory.sent(request.step, spec, left)


def received_here(client: ClientId, request: Request, filters: Sequence[Filter], memories: Memories) -> Request:
    """Applies :func:`as_received` for a client in this process."""
    received, memory = as_received(request, filters, memories.of(client))
    memories.keep(client, memory)
    return received


def sent_here(client: ClientId, request: Request, reply: Reply, filters: Sequence[Filter], memories: Memories) -> Reply:
    """Applies :func:`as_sent` for a client in this process."""
    sent, memory = as_sent(request, reply, filters, memories.of(client))
    memories.keep(client, memory)
    return sent


def _with_model(request: Request, model: ClientModel) -> Request:
    if isinstance(request, Train):
        return replace(request, task=replace(request.task, model=model))
    return replace(request, model=model)


def _aside(request: Request, received: Tensors) -> Collection[str]:
    """Names of the tensors that no filter remembers: private ones and, in requests for scores, new ones."""
    if isinstance(request, Train):
        return request.task.private
    return flat(request.model).keys() - received.keys()
