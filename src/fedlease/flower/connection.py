"""The server's connection to nodes: which client is on which node, which arrays it has, and how replies are read."""

import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedlease.client.messages import Refused
from fedlease.config.sections import LoraSettings
from fedlease.core.types import ClientId
from fedlease.core.wording import counted
from fedlease.data.federation import ClientCard
from fedlease.errors import ConfigError, RunFailedError
from fedlease.flower.bounds import LABEL, MOST_ROWS, shown
from fedlease.flower.identity import identified
from fedlease.flower.messages import Envelope, Introduction, Unusable
from fedlease.flower.validation import card_fault
from fedlease.flower.wire import MAX_TREE, RecordError, pack, unpack

__all__ = ["ESCAPED", "Connection", "NoReply", "Size", "read", "replies_to"]

POLL = 0.5
"""Seconds between searches for new nodes."""

FAREWELL = 30.0
"""Seconds that a rejected node has to receive the reason."""

SPARE, SPARE_TREE = 2**20, 2**16
"""Bytes of arrays, and characters of JSON, by which a reply may exceed its expected size."""

ESCAPED = 12
"""Most characters of JSON for one character of text."""

WORKER_DIED = re.compile(r"<class 'ray\.exceptions\.(?!RayTaskError)")
"""Flower's wording for the end of a worker process of a simulation."""

log = logging.getLogger("flwr")


@dataclass(frozen=True)
class Size:
    """The expected size of a reply.

    Attributes:
        arrays: bytes of arrays.
        tree: characters of JSON.
    """

    arrays: int = 0
    tree: int = 0


@dataclass(frozen=True)
class Unread(Refused):
    """A refusal by the server, in place of a reply that it cannot read."""


@dataclass(frozen=True)
class NoReply(Unread):
    """A refusal by the server, in place of a reply that did not arrive."""


@dataclass
class Connection:
    """The nodes of all clients; a node id belongs to the transport, and nothing outside uses it.

    Attributes:
        grid: Flower's connection to the nodes.
        hello: the message that every new node gets.
        deadline: seconds that a request waits for its reply.
        patience: seconds that a new node has to introduce itself.
        max_labels: largest number of labels of a client.
        max_rows: largest number of train rows that a client may state.
        simulated: whether nodes are worker processes of this machine, whose death is no client's refusal.
        skip: whether the run continues without clients whose rows cannot be used.
        lora: settings with the ranks of clients.
        keys: fingerprint of a key -> client, see :func:`~fedlease.flower.identity.identified`.
        cards: client -> its card.
        nodes: client -> node.
        arrays: client -> SHA-256 of the arrays that it was sent last.
        unusable: client, or name of its node -> why its rows cannot be used.
    """

    grid: Grid
    hello: Envelope
    deadline: float
    patience: float = 600.0
    max_labels: int = 1000
    max_rows: int = MOST_ROWS
    simulated: bool = False
    skip: bool = False
    lora: LoraSettings = field(default_factory=LoraSettings)
    keys: Mapping[str, ClientId] | None = None
    cards: dict[ClientId, ClientCard] = field(default_factory=dict)
    nodes: dict[ClientId, int] = field(default_factory=dict)
    arrays: dict[ClientId, frozenset[str]] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    _known: set[int] = field(default_factory=set)
    _asked: dict[str, tuple[int, float]] = field(default_factory=dict)
    _rejections: list[str] = field(default_factory=list)

    def wait(self, count: int, seconds: float) -> None:
        """Waits until all present nodes have introduced themselves, and these are at least ``count`` clients.

        Raises:
            RunFailedError: there are fewer clients after ``seconds``.
            ConfigError: a node refused, or two nodes claim one client.
        """
        until, faults = time.monotonic() + seconds, list[str]()
        while True:
            faults += self.discover()
            over = time.monotonic() >= until
            if faults and (over or not self._asked):
                self._deliver_rejections()
                raise ConfigError(faults)
            if len(self.nodes) >= count and (over or not self._asked):
                return
            if over:
                there = ", ".join(sorted(self.nodes)) or "none"
                raise RunFailedError(
                    f"flower.min_nodes: needs {counted(count, 'client')}, {len(self.nodes)} reported within "
                    f"{seconds:g} s: {there}"
                )
            time.sleep(POLL)

    def discover(self) -> list[str]:
        """Asks new nodes to introduce themselves, and admits or rejects those that have replied; does not wait.

        Returns:
            The reasons for which nodes were rejected.
        """
        present, now = set(self.grid.get_node_ids()), time.monotonic()
        self._known &= present
        self._asked = {
            message: (node, since)
            for message, (node, since) in self._asked.items()
            if node in present and now - since < self.patience
        }
        if new := sorted(present - self._known - {node for node, _ in self._asked.values()}):
            record = pack(self.hello).record
            messages = [
                Message(record, dst_node_id=node, message_type="query.hello", group_id="hello", ttl=self.patience)
                for node in new
            ]
            self.grid.push_messages(messages)
            self._asked |= {message.metadata.message_id: (message.metadata.dst_node_id, now) for message in messages}
        faults: list[str] = []
        replies = self.grid.pull_messages(list(self._asked)) if self._asked else ()
        for node, reply in replies_to({message: node for message, (node, _) in self._asked.items()}, replies):
            first = self._asked.pop(reply.metadata.reply_to_message_id, None) is not None
            if not first or _is_gone(reply):
                continue  # a repeated reply, or a lost node, which is asked again once it is back
            self._known.add(node)
            if fault := self._introduce(node, reply, present):
                if self.skip and fault in self.unusable.values():
                    log.warning("fedlease: continues without a client (data.clients is skip): %s", fault)
                else:
                    faults.append(fault)
                log.error("fedlease: %s", fault)
                self._reject(node, fault)
        return faults

    def _introduce(self, node: int, reply: Message, present: set[int]) -> str:
        """Admits a node; returns the reason if it cannot be admitted, otherwise an empty text."""
        most = self.max_labels * ESCAPED * LABEL
        value = read(reply, Size(tree=most), simulated=self.simulated)
        if isinstance(value, Unusable):
            self.unusable[shown(value.client)] = shown(value.reason)
            return shown(value.reason)
        if isinstance(value, Refused):
            return f"node {node}: {value.reason}" if isinstance(value, Unread) else value.reason
        if not isinstance(value, Introduction):
            return f"node {node} did not introduce itself"
        card = value.card
        if fault := card_fault(card, self.max_labels, self.max_rows) or self.lora.fault_of(card.id):
            return f"node {node}: {fault}"
        key, fault = identified(value, self.hello.run, node, self.keys)
        if fault:
            return fault
        card = replace(card, key=key)
        before = self.nodes.get(card.id)
        if before is not None and before != node and before in present:
            # It is asked again later: a restarted node has a new id while the SuperLink still lists the old one.
            self._known.discard(node)
            return f"client {card.id!r} is claimed by two nodes, {before} and {node}: give each node its own client-id"
        if self.cards.get(card.id, card).key != key:
            return f"client {card.id!r} came back with another key than the run began with: {key or 'none'}"
        if self.cards.get(card.id, card) != card:
            return f"client {card.id!r} came back with other rows or labels than the run began with"
        self.nodes[card.id] = node
        self.arrays.pop(card.id, None)
        self.cards[card.id] = card
        return ""

    def _reject(self, node: int, reason: str) -> None:
        record = pack(Refused(reason)).record
        message = Message(record, dst_node_id=node, message_type="query.rejected", group_id="hello")
        self._rejections += self.grid.push_messages([message])

    def _deliver_rejections(self) -> None:
        """Waits until rejected nodes have received the reason, since nothing reaches them after the run."""
        until = time.monotonic() + FAREWELL
        while self._rejections and time.monotonic() < until:
            delivered = {reply.metadata.reply_to_message_id for reply in self.grid.pull_messages(self._rejections)}
            self._rejections = [message for message in self._rejections if message not in delivered]
            if self._rejections:
                time.sleep(POLL)


def replies_to(asked: Mapping[str, int], replies: Iterable[Message]) -> Iterator[tuple[int, Message]]:
    """Yields (node, reply) for replies to messages that were sent, including the SuperLink's errors in their place.

    Args:
        asked: id of a message -> the node that it was sent to.
        replies: all replies that arrived.
    """
    for reply in replies:
        node = asked.get(reply.metadata.reply_to_message_id)
        if node is not None and (reply.metadata.src_node_id == node or reply.has_error()):
            yield node, reply


def read(reply: Message, size: Size, *, simulated: bool = False) -> Any:
    """The value of a reply; a refusal if it has none, or if the client refused.

    Args:
        reply: the reply of a node, or an error in its place.
        size: the largest size that is expected.
        simulated: see :class:`Connection`.

    Raises:
        RunFailedError: a worker process of a simulation died and could not be replaced.
    """
    if _is_gone(reply):
        return NoReply("was lost while it was asked: its SuperNode stopped reporting")
    if reply.has_error():
        lines = (reply.error.reason or "").strip().splitlines()
        if simulated and lines and WORKER_DIED.match(lines[0]):
            raise RunFailedError(
                "a worker process of the simulation died, and so did its replacements; was there enough memory for all "
                "of them? Go on from the last complete step with: fedlease resume DIR --engine flower"
            )
        # The last line of a traceback has the error.
        return Unread(f"its app failed: {shown(lines[-1]) if lines else 'no reason given'}")
    try:
        value = unpack(reply.content, size.arrays + SPARE, max_tree=min(MAX_TREE, size.tree + SPARE_TREE))[0]
    except RecordError as error:
        return Unread(shown(str(error)))
    except Exception as error:  # one node's bytes must not end the run, whatever is wrong with them
        return Unread(shown(f"its reply cannot be read: {type(error).__name__} {error}"))
    return Refused(shown(value.reason)) if isinstance(value, Refused) else value


def _is_gone(reply: Message) -> bool:
    """Whether the SuperLink says that the node stopped reporting."""
    return bool(reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE)
