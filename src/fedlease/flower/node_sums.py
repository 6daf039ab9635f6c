"""A node's half of secure sums: its messages are handled without the base model."""

from dataclasses import dataclass
from pathlib import Path

from fedlease.client.messages import Refused, Reply, Request, Train
from fedlease.client.secure_sums import Member, Membership
from fedlease.client.sum_messages import SumAsk, SumKeys, SumSeeds, SumShares
from fedlease.core.codec import serialisable
from fedlease.core.types import ClientId
from fedlease.flower.keys import keys_of, private_key, sign, verifies
from fedlease.flower.node_store import Store

__all__ = ["NodeSums", "Peers"]


@dataclass(frozen=True)
class Peers:
    """The node's own key, and the keys of clients with whose updates its own may be summed.

    Attributes:
        key: file with the node's private key; None signs nothing.
        folder: folder with a public key ``ID.pub`` for every client; None accepts any keys.
    """

    key: Path | None = None
    folder: Path | None = None

    def sign(self, statement: bytes) -> str:
        """See :class:`~fedlease.client.secure_sums.Notary`."""
        return "" if self.key is None else sign(private_key(self.key, "node-config: key"), statement).hex()

    def fault(self, client: ClientId, statement: bytes, signature: str) -> str:
        """See :class:`~fedlease.client.secure_sums.Notary`."""
        if self.folder is None:
            return ""
        known = keys_of(self.folder, "node-config: peers").get(client)
        try:
            signed = known is not None and verifies(known, statement, bytes.fromhex(signature))
        except ValueError:
            signed = False
        return "" if signed else f"the keys of {client!r} are not signed by a key that this node knows it by (peers)"


@serialisable
@dataclass(frozen=True)
class StoredSums:
    """The state of secure sums that a node stores for its client under one method.

    Attributes:
        run: identity of the run.
        client: id of the client.
        membership: the client's membership in sums.
    """

    run: str
    client: str
    membership: Membership


@dataclass(frozen=True)
class NodeSums:
    """A client's part in secure sums on its own machine; its state is stored before a reply leaves.

    Attributes:
        store: storage that outlives the message.
        run: identity of the run.
        client: id of the node's client.
        peers: keys that sign and check the keys of sums.
    """

    store: Store
    run: str
    client: str
    peers: Peers = Peers()

    def tell(self, ask: SumAsk) -> SumKeys | SumShares | SumSeeds | Refused:
        """Replies to a message of a sum."""
        member = self._member(ask.method)
        reply = member.tell(ask)
        self._keep(ask.method, member)
        return reply

    def refusal(self, request: Request) -> Refused | None:
        """Why a request is refused, or None; see :meth:`Member.accepts`."""
        member = self._member(request.method)
        refusal = member.accepts(request)
        self._keep(request.method, member)
        return refusal

    def masked(self, request: Train, reply: Reply) -> Reply:
        """The masked form of the reply to a request with a masking."""
        member = self._member(request.method)
        masked = member.masked(request, reply)
        self._keep(request.method, member)
        return masked

    def _member(self, method: str) -> Member:
        found, own = self.store.get(_key(method)), (self.run, self.client)
        mine = isinstance(found, StoredSums) and (found.run, found.client) == own
        return Member(self.client, found.membership if mine else Membership(), self.peers)

    def _keep(self, method: str, member: Member) -> None:
        self.store.put(_key(method), StoredSums(self.run, self.client, member.memory))


def _key(method: str) -> str:
    return f"{method}-sums"
