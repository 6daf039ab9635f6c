"""What server and nodes say to each other; how it travels is in ``records.py``."""

from dataclasses import dataclass

from fedlease.client.messages import Request
from fedlease.core.codec import serialisable
from fedlease.data.federation import ClientCard

__all__ = ["Envelope", "Hello", "Introduction", "Lacking", "Refusal"]


@serialisable
@dataclass(frozen=True)
class Hello:
    """The server's first question to a node.

    Attributes:
        run: identity of the run, the same when it is gone on with.
        version: of fedlease on the server.
        settings: of the run, as JSON.
        model: fingerprint of the base model.
    """

    run: str
    version: str
    settings: str
    model: str


@serialisable
@dataclass(frozen=True)
class Introduction:
    """A node's answer to :class:`Hello`."""

    card: ClientCard


@serialisable
@dataclass(frozen=True)
class Refusal:
    """A node cannot or will not do what it was asked.

    Attributes:
        reason: one sentence.
        unusable: what the node is known by, where its rows cannot be used; else empty.
    """

    reason: str
    unusable: str = ""


@serialisable
@dataclass(frozen=True)
class Lacking:
    """A node no longer has arrays that the server thinks it has.

    Attributes:
        names: SHA-256 of each.
    """

    names: tuple[str, ...]


@serialisable
@dataclass(frozen=True)
class Envelope:
    """A request to a client, with what a node's process needs that knows nothing yet.

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
