"""What Flower adds to the requests and replies of :mod:`fedlease.client.messages`; how all travel is in ``wire.py``."""

from dataclasses import dataclass

from fedlease.client.messages import Request
from fedlease.client.sum_messages import SumAsk
from fedlease.core.codec import serialisable
from fedlease.data.federation import ClientCard

__all__ = ["Envelope", "Introduction", "Lacking", "Unusable"]


@serialisable
@dataclass(frozen=True)
class Envelope:
    """A message of the server, with what a process that a node has just started needs to know.

    Attributes:
        run: identity of the run, which the client's private tensors belong to; a resumed run has the same.
        version: of fedlease on the server.
        settings: of the run, as JSON.
        base: fingerprint of the server's base model.
        request: to the client, or a message of a secure sum; None asks the node to introduce itself.
    """

    run: str
    version: str
    settings: str
    base: str
    request: Request | SumAsk | None = None


@serialisable
@dataclass(frozen=True)
class Introduction:
    """A node's reply to an :class:`Envelope` without a request.

    Attributes:
        card: of its client.
        key: the node's public key, as OpenSSH writes it; empty if it has none.
        signature: by that key, see ``identity.py``; base64.
    """

    card: ClientCard
    key: str = ""
    signature: str = ""


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
