"""Clients on other machines, over Flower: requests are sent in envelopes, and replies are checked before their use."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import Message

from fedlease.client.messages import Finish, Finished, Refused, Reply, Request, Score, Scored, Train
from fedlease.client.sum_messages import SEALED, SumAsk
from fedlease.core.types import ClientId, ClientTask, Tensors
from fedlease.data.federation import ClientCard
from fedlease.flower.bounds import LOSS, TEXT, shown
from fedlease.flower.connection import ESCAPED, Connection, NoReply, Size, read, replies_to
from fedlease.flower.messages import Lacking, Unusable
from fedlease.flower.validation import SAMPLE_KEYS, score_rule, scores_fault, update_fault
from fedlease.flower.wire import Packed, Shared, pack
from fedlease.privacy.packing import whole_bytes
from fedlease.server.transport import Traffic, Transport
from fedlease.tasks.base import Task

__all__ = ["Checked", "FlowerTransport"]

PER_NAME, PER_ROW, PER_EXPERT, PER_CELL = 512, 16, 16, 32
"""Characters of JSON in a reply per tensor or module, test row, expert in a module, and count of a pair of labels."""

NONE = frozenset[str]()
LATE = NoReply("is late by the schedule, which says why")
KINDS = {Train: "train.task", Score: "evaluate.score", Finish: "evaluate.finish"}
"""Request -> type of the message that carries it."""

log = logging.getLogger("flwr")


@dataclass(frozen=True)
class FlowerTransport:
    """Sends requests to nodes, which keep private tensors.

    Attributes:
        connection: connection to the nodes.
        traffic: counts what is sent, without arrays that a node already has.
        samples: most test rows that a client may send in clear text.
    """

    connection: Connection
    traffic: Traffic
    samples: int = 0

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """The clients of the run, including those whose nodes have joined since."""
        self.connection.discover()
        return dict(self.connection.cards)

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """Sends all requests at once; yields replies in their order once all have arrived or the time is over."""
        arrays, hello, shared = self.connection.arrays, self.connection.hello, Shared()
        packed = {c: pack(replace(hello, request=r), arrays.get(c, NONE), shared) for c, r in requests.items()}
        replies = self._exchange(requests, packed)
        # A node that was restarted, or replies from another process, lacks earlier arrays and gets everything.
        lacking = [client for client, reply in replies.items() if isinstance(reply, Lacking)]
        whole = {client: pack(replace(hello, request=requests[client]), NONE, shared) for client in lacking}
        packed |= whole
        replies |= self._exchange(requests, whole)
        for client, request in requests.items():
            reply = replies[client]
            if isinstance(reply, Lacking):
                reply = Refused("it lacks arrays that were sent with the message")
            elif isinstance(reply, Unusable):
                reply = Refused(shown(reply.reason))
            arrays[client] = NONE if isinstance(reply, Refused) else packed[client].names
            if isinstance(request, Train) and not isinstance(reply, NoReply):
                self._count(request.task, packed[client].sent, shared)
                self.traffic.sealed(request)
            self.traffic.reply(reply)
            replies[client] = reply
        # Yielding comes last, since the server may stop early although all replies were sent.
        yield from ((client, replies[client]) for client in requests if replies[client] is not LATE)

    def ask(self, asked: Mapping[ClientId, SumAsk]) -> Iterator[tuple[ClientId, Any]]:
        """See :class:`~fedlease.server.secure_sums.Asking`; does not change which arrays nodes have."""
        packed = {client: pack(replace(self.connection.hello, request=ask)) for client, ask in asked.items()}
        for client, reply in self._exchange(asked, packed).items():
            self.traffic.aside(asked[client], reply)
            yield client, reply

    def _exchange(
        self, requests: Mapping[ClientId, Request | SumAsk], packed: Mapping[ClientId, Packed]
    ) -> dict[ClientId, Any]:
        """Client -> its unchecked reply, or a refusal with the reason why there is none."""
        grid, nodes, deadline = self.connection.grid, self.connection.nodes, self.connection.deadline
        given = [r.seconds for r in requests.values() if isinstance(r, Train) and r.seconds is not None]
        limit = min([deadline, *given])
        present = set(grid.get_node_ids()) if packed else set()
        reached = {nodes[client]: client for client in packed if nodes.get(client) in present}
        messages = []
        for node, client in reached.items():
            request = requests[client]
            kind = KINDS.get(type(request), "query.sum")
            group = str(request.step) if isinstance(request, Train) else kind.partition(".")[2]
            record = packed[client].record
            messages.append(Message(record, dst_node_id=node, message_type=kind, group_id=group, ttl=limit))
        found: dict[ClientId, Any] = {}
        replies = grid.send_and_receive(messages, timeout=limit) if messages else ()
        for node, reply in replies_to({m.metadata.message_id: m.metadata.dst_node_id for m in messages}, replies):
            client = reached[node]
            if client not in found:  # a repeated reply does not count
                size = self._size(client, requests[client])
                found[client] = read(reply, size, simulated=self.connection.simulated)
        for client in packed.keys() - found.keys():
            if nodes.get(client) not in present:
                found[client] = NoReply("is not connected")
            elif limit < deadline:
                found[client] = LATE
            else:
                found[client] = NoReply(f"did not answer within {deadline:g} s (flower.deadline)")
        return found

    def _count(self, task: ClientTask, marks: frozenset[str], shared: Shared) -> None:
        """Counts the tensors of a task that were sent, each once."""
        left, model = set(marks), task.model
        for tensors in (model.tensors, *model.candidates, {} if task.term is None else task.term.slope):
            for name, tensor in tensors.items():
                if (mark := shared.name(tensor)) in left:
                    left.discard(mark)
                    self.traffic.add("down", [(name, tensor)])

    def _size(self, client: ClientId, request: Request | SumAsk) -> Size:
        """The expected size of a reply; much larger ones are refused unread."""
        if isinstance(request, SumAsk):
            return Size(tree=(PER_NAME + 2 * SEALED) * len(self.connection.cards))
        model = request.model
        if isinstance(request, Train):
            # Masked numbers have up to 8 bytes.
            most = _size(request.task.expected)
            return most if request.masking is None else replace(most, arrays=2 * most.arrays)
        if isinstance(request, Score):
            return Size()
        # numbers per row, counts of pairs of labels, usage per module and expert, samples, and private tensors
        most = _size(model.tensors) if request.hand_over else Size()
        usage = len(model.spec.target_modules) * (PER_NAME + PER_EXPERT * model.spec.num_experts)
        samples = self.samples * len(SAMPLE_KEYS) * ESCAPED * TEXT
        card = self.connection.cards[client]
        cells = (min(card.test_rows, len(card.labels) ** 2) + 3 * len(card.labels) + 1) * PER_CELL
        return Size(most.arrays, most.tree + card.test_rows * PER_ROW + cells + usage + samples)


@dataclass(frozen=True)
class Checked:
    """A transport that replaces faulty replies by refusals.

    Attributes:
        transport: transport whose replies are checked, after the filters.
        cards: client -> its card.
        task: what clients optimise.
        samples: most test rows that a client may send in clear text.
        private: whether clients train under differential privacy, so that replies state the epsilon spent and have no
            losses and nothing about single rows.
        summed: whether updates after the warm-up are means of several clients.
    """

    transport: Transport
    cards: Mapping[ClientId, ClientCard]
    task: Task
    samples: int = 0
    private: bool = False
    summed: bool = False

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """The clients of the transport."""
        return self.transport.clients()

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """See :class:`~fedlease.server.transport.Transport`; logs why a client is not scored."""
        for client, reply in self.transport.send(requests):
            request = requests[client]
            checked = self.checked(self.cards[client], request, reply)
            if isinstance(checked, Refused) and not isinstance(request, Train):
                when = " at the end" if isinstance(request, Finish) else ""
                log.error("fedlease: %r is not scored%s: %s", client, when, checked.reason)
            yield client, checked

    def checked(self, card: ClientCard, request: Request, reply: Any) -> Reply:
        """A client's reply, or a refusal if it is faulty."""
        fault = "" if isinstance(reply, Refused) else self._fault(card, request, reply)
        return Refused(fault) if fault else reply

    def _fault(self, card: ClientCard, request: Request, reply: Any) -> str:
        match request:
            case Train():
                return update_fault(reply, request.task, card, self.task, private=self.private, summed=self.summed)
            case Score():
                rule = LOSS if request.metric == "loss" else score_rule(self.task)
                score = reply.score if isinstance(reply, Scored) else reply
                return "" if rule.holds(score) else f"its score must be {rule.words}, received {shown(score)}"
            case Finish():
                scores = reply.scores if isinstance(reply, Finished) else reply
                return scores_fault(scores, self.task, request.model, card, self.samples, private=self.private)


def _size(tensors: Tensors) -> Size:
    return Size(sum(whole_bytes(tensor) for tensor in tensors.values()), PER_NAME * len(tensors))
