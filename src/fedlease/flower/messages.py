"""What Flower adds to the requests and replies of :mod:`fedlease.client.messages`; how all travel is in ``wire.py``."""

from dataclasses import dataclass

from fedlease.client.messages import Request
from fedlease.core.codec import serialisable
from fedlease.data.federation import ClientCard

__all__ = ["Envelope", "Hello", "Introduction", "Lacking", "Unusable"]


@serialisable
@dataclass(frozen=True)
class Hello:
    """The server's first question to a node.

    Attributes:
        run: identity of the run; a resumed run has the same.
        version: of fedlease on the server.
        settings: of the run, as JSON.
        base: fingerprint of the server's base model.
    """

    run: str
    version: str
    settings: str
    base: str


@serialisable
@dataclass(frozen=True)
class Introduction:
    """A node's reply to :class:`Hello`."""

    card: ClientCard


@serialisable
@dataclass(frozen=True)
class Unusable:
    """The reply of a node whose rows cannot be used.

    Attributes:
        client: its id, or what the node is known by.
        reason: one sentence.
    """

    client: str
    reason: str


@serialisable
@dataclass(frozen=True)
class Lacking:
    """A node no longer has arrays that the server left out of a message.

    Attributes:
        names: SHA-256 of each.
    """

    names: tuple[str, ...]


@serialisable
@dataclass(frozen=True)
class Envelope:
    """A request to a client, with what a process that a node has just started needs to know.

    Attributes:
        run: identity of the run, which the client's private tensors belong to.
        settings: of the run, as JSON.
        base: fingerprint of the server's base model.
        request: to the client.
    """

    run: str
    settings: str
    base: str
    request: Request
