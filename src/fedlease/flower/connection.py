"""The server's connection to nodes: which client is where, questions and answers, what has been sent already."""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedlease._version import __version__
from fedlease.client.messages import Refused
from fedlease.core.types import ClientId
from fedlease.core.wording import counted
from fedlease.data.federation import ClientCard
from fedlease.errors import ConfigError, RunFailedError, UpdateRefusedError
from fedlease.flower.bounds import LABEL, shown
from fedlease.flower.messages import Hello, Introduction, Lacking, Unusable
from fedlease.flower.replies import (
    ESCAPED,
    SPARE,
    SPARE_TREE,
    Size,
    check_worker,
    is_gone,
    last_line,
    of_asked,
    read,
)
from fedlease.flower.validation import card_fault
from fedlease.flower.wire import Packed, Shared, pack, unpack

__all__ = ["Link"]

POLL = 0.5
"""Seconds between looks for new nodes."""

FAREWELL = 30.0
"""Seconds that a node has to hear why it is turned away."""

log = logging.getLogger("flwr")


@dataclass
class Link:
    """Nodes by the clients they are; a node id is the transport's and means nothing beyond it.

    Attributes:
        grid: of Flower.
        run: identity of the run: goes out with every message, as the settings do.
        settings: of the run, as JSON.
        model: fingerprint of the server's base model.
        deadline: seconds that a question waits for answers.
        patience: seconds that a new node has to say who it is.
        max_labels: that a client may have.
        simulated: whether nodes are worker processes of this machine, whose end is none of theirs.
        cards: client -> what it said of itself.
        nodes: client -> node.
        held: client -> SHA-256 of the arrays it was sent last.
        silent: clients that did not answer when they were asked last.
        skip: whether the run goes on without clients whose rows cannot be used.
        unusable: client, or what its node is known by -> why its rows cannot be used.
    """

    grid: Grid
    run: str
    settings: str
    model: str
    deadline: float
    patience: float = 600.0
    max_labels: int = 1000
    simulated: bool = False
    skip: bool = False
    cards: dict[ClientId, ClientCard] = field(default_factory=dict)
    nodes: dict[ClientId, int] = field(default_factory=dict)
    held: dict[ClientId, frozenset[str]] = field(default_factory=dict)
    silent: set[ClientId] = field(default_factory=set)
    unusable: dict[str, str] = field(default_factory=dict)
    _known: set[int] = field(default_factory=set)
    _asked: dict[str, tuple[int, float]] = field(default_factory=dict)
    _turned: list[str] = field(default_factory=list)

    def wait(self, count: int, seconds: float) -> None:
        """Until so many clients have reported, and every other node that is there.

        Raises:
            RunFailedError: fewer have when the time is over.
            ConfigError: nodes refused, or two claim one client.
        """
        until, faults = time.monotonic() + seconds, list[str]()
        while True:
            faults += self.discover()
            over = time.monotonic() >= until
            if faults and (over or not self._asked):
                self._see_off()
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
        """Asks nodes that are new who they are, and takes in those that have said so since; waits for none.

        Returns:
            Why nodes cannot take part: these are turned away.
        """
        present = set(self.grid.get_node_ids())
        self._known &= present
        now = time.monotonic()
        self._asked = {
            message: (node, since)
            for message, (node, since) in self._asked.items()
            if node in present and now - since < self.patience
        }
        new = sorted(present - self._known - {node for node, _ in self._asked.values()})
        if new:
            packed = pack(Hello(self.run, __version__, self.settings, self.model))
            messages = [
                Message(
                    packed.record, dst_node_id=node, message_type="query.hello", group_id="hello", ttl=self.patience
                )
                for node in new
            ]
            self.grid.push_messages(messages)
            self._asked |= {message.metadata.message_id: (message.metadata.dst_node_id, now) for message in messages}
        faults: list[str] = []
        replies = self.grid.pull_messages(list(self._asked)) if self._asked else ()
        for node, reply in of_asked(replies, {message: node for message, (node, _) in self._asked.items()}):
            first = self._asked.pop(reply.metadata.reply_to_message_id, None) is not None
            if not first or is_gone(reply):
                continue  # said twice; or asked again when it is back
            self._known.add(node)
            fault = self._introduce(node, reply, present)
            if fault:
                if self.skip and fault in self.unusable.values():
                    log.warning("fedlease: goes on without a client (data.clients is skip): %s", fault)
                else:
                    faults.append(fault)
                log.error("fedlease: %s", fault)
                self._turn_away(node, fault)
        return faults

    def _introduce(self, node: int, reply: Message, present: set[int]) -> str:
        """Takes a node in; or why not."""
        if reply.has_error():
            if self.simulated:
                check_worker(reply)
            return f"node {node} failed: {last_line(reply.error.reason)}"
        most = SPARE_TREE + self.max_labels * ESCAPED * LABEL
        try:
            value, _, _ = unpack(reply.content, SPARE, max_tree=most)
        except Exception as error:  # as for every answer
            return f"node {node}: {shown(str(error))}"
        if isinstance(value, Unusable):
            self.unusable[shown(value.client)] = shown(value.reason)
        if isinstance(value, Unusable | Refused):
            return shown(value.reason)
        if not isinstance(value, Introduction):
            return f"node {node} did not say who it is"
        card, fault = value.card, card_fault(value.card, self.max_labels)
        if fault:
            return f"node {node}: {fault}"
        before = self.nodes.get(card.id)
        if before is not None and before != node and before in present:
            # Asked again later: a restarted node comes with another id while the old one is not yet given up.
            self._known.discard(node)
            return f"client {card.id!r} is claimed by two nodes, {before} and {node}: give each node its own client-id"
        known = self.cards.get(card.id)
        if known is not None and known != card:
            return f"client {card.id!r} came back with other rows or labels than the run began with"
        self.nodes[card.id] = node
        self.held.pop(card.id, None)
        self.cards[card.id] = card
        return ""

    def _turn_away(self, node: int, reason: str) -> None:
        record = pack(Refused(reason)).record
        message = Message(record, dst_node_id=node, message_type="query.rejected", group_id="hello")
        self._turned += self.grid.push_messages([message])

    def _see_off(self) -> None:
        """Nodes that were turned away are told before the run ends, after which nothing reaches them."""
        until = time.monotonic() + FAREWELL
        while self._turned and time.monotonic() < until:
            heard = {reply.metadata.reply_to_message_id for reply in self.grid.pull_messages(self._turned)}
            self._turned = [message for message in self._turned if message not in heard]
            if self._turned:
                time.sleep(POLL)

    def ask(
        self, kind: str, values: Mapping[ClientId, Any], expected: Mapping[ClientId, Size], group: str
    ) -> Iterator[tuple[ClientId, Any, Packed]]:
        """Puts a question to each client and gives the answers.

        Args:
            kind: message type.
            values: client -> question.
            expected: client -> size of its answer; much larger ones are refused unread.
            group: of the messages.

        Yields:
            Client, its answer or why there is none (:class:`UpdateRefusedError`), and what was sent to it.
        """
        shared, none = Shared(), frozenset[str]()
        packed = {client: pack(value, self.held.get(client, none), shared) for client, value in values.items()}
        answers = dict(self._exchange(kind, packed, expected, group))
        lacking = [client for client, answer in answers.items() if isinstance(answer, Lacking)]
        if lacking:
            # The node was restarted, or is another process than before: everything again.
            whole = {client: pack(values[client], none, shared) for client in lacking}
            packed |= whole
            answers |= dict(self._exchange(kind, whole, expected, group))
        for client in values:
            answer = answers[client]
            if isinstance(answer, Unusable | Refused):
                answer = UpdateRefusedError(client, shown(answer.reason))
            elif isinstance(answer, Lacking):
                answer = UpdateRefusedError(client, "it lacks arrays that were sent with the message")
            failed = isinstance(answer, UpdateRefusedError)
            self.held[client] = frozenset() if failed else packed[client].names
            yield client, answer, packed[client]

    def _exchange(
        self, kind: str, packed: Mapping[ClientId, Packed], expected: Mapping[ClientId, Size], group: str
    ) -> Iterator[tuple[ClientId, Any]]:
        present = set(self.grid.get_node_ids())
        reached = {self.nodes[c]: c for c in packed if self.nodes.get(c) in present}
        messages = [
            Message(packed[client].record, dst_node_id=node, message_type=kind, group_id=group, ttl=self.deadline)
            for node, client in reached.items()
        ]
        answered: dict[ClientId, Any] = {}
        self.silent |= set(packed)
        replies = self.grid.send_and_receive(messages, timeout=self.deadline) if messages else ()
        for node, reply in of_asked(replies, {m.metadata.message_id: m.metadata.dst_node_id for m in messages}):
            client = reached[node]
            if client in answered:
                continue  # a second answer to one question
            if self.simulated:
                check_worker(reply)
            answered[client] = read(client, reply, expected[client])
            if not is_gone(reply):
                self.silent.discard(client)
        for client in packed:
            if client in answered:
                yield client, answered[client]
            elif self.nodes.get(client) in present:
                yield client, UpdateRefusedError(client, f"did not answer within {self.deadline:g} s (flower.deadline)")
            else:
                yield client, UpdateRefusedError(client, "is not connected")
