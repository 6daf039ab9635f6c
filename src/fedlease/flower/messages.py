"""Messages over Flower around the requests and replies of :mod:`fedlease.client.messages`; ``wire.py`` packs them."""

from dataclasses import dataclass

from fedlease.client.messages import Request
from fedlease.client.sum_messages import SumAsk
from fedlease.core.codec import serialisable
from fedlease.data.federation import ClientCard

__all__ = ["Envelope", "Introduction", "Lacking", "Unusable"]


@serialisable
@dataclass(frozen=True)
class Envelope:
    """A message of the server with a request, and all that a newly started process of a node needs to handle it.

    Attributes:
        run: identity of the run, under which private tensors are stored; a resumed run has the same.
        version: version of fedlease on the server.
        settings: settings of the run, as JSON.
        base: fingerprint of the server's base model.
        request: a request to the client, or a message of a secure sum; None asks the node to introduce itself.
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
        card: its client's card.
        key: the node's public key, as OpenSSH writes it; empty if it has none.
        signature: a signature by that key, in base64; see ``identity.py``.
    """

    card: ClientCard
    key: str = ""
    signature: str = ""


@serialisable
@dataclass(frozen=True)
class Unusable:
    """The reply of a node whose rows cannot be used.

    Attributes:
        client: id of the client, or name of the node.
        reason: one sentence.
    """

    client: str
    reason: str


@serialisable
@dataclass(frozen=True)
class Lacking:
    """The reply of a node that no longer has some arrays which the server left out of a message.

    Attributes:
        names: SHA-256 of each missing array.
    """

    names: tuple[str, ...]
