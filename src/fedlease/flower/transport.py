"""Clients on other machines, over Flower: requests go out in envelopes, replies are checked before they are used."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedlease.client.messages import Finish, Finished, Refused, Reply, Request, Score, Scored, Train
from fedlease.core.types import ClientId, ClientModel, Tensors
from fedlease.data.federation import ClientCard
from fedlease.errors import UpdateRefusedError
from fedlease.flower.bounds import SHARE, TEXT, shown
from fedlease.flower.connection import Link
from fedlease.flower.messages import Envelope
from fedlease.flower.replies import ESCAPED, Size
from fedlease.flower.validation import SAMPLE_KEYS, scores_fault, update_fault
from fedlease.flower.wire import fingerprint_of
from fedlease.server.transport import Traffic, Transport
from fedlease.tasks.base import Task

__all__ = ["Checked", "FlowerTransport"]

PER_NAME, PER_ROW, PER_EXPERT = 512, 16, 16
"""Characters of JSON in a reply for a tensor or module, a test row, and an expert in a module."""

log = logging.getLogger("flwr")


@dataclass(frozen=True)
class FlowerTransport:
    """Sends requests to nodes; private tensors stay with them.

    Attributes:
        link: to the nodes.
        traffic: counts what really travels, without arrays that a node has already.
        samples: test rows that a client may send in clear text.
    """

    link: Link
    traffic: Traffic
    samples: int = 0

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """The clients of the run, and those whose nodes have come since."""
        self.link.discover()
        return dict(self.link.cards)

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """All at once per kind of request; replies in the order of the requests, when the last is there or the deadline
        is over."""
        kinds = {client: _kind(request) for client, request in requests.items()}
        for kind in sorted({*kinds.values()}):
            own = {client: request for client, request in requests.items() if kinds[client] == kind}
            envelopes = {client: Envelope(*self._run(), request) for client, request in own.items()}
            sizes = {client: self._size(client, request) for client, request in own.items()}
            group = next((str(r.step) for r in own.values() if isinstance(r, Train)), kind.partition(".")[2])
            for client, reply, packed in self.link.ask(kind, envelopes, sizes, group):
                if isinstance(own[client], Train) and client not in self.link.silent:
                    self._count(own[client].model, packed.sent)
                if isinstance(reply, UpdateRefusedError):
                    reply = Refused(reply.reason)
                self.traffic.reply(reply)
                yield client, reply

    def _run(self) -> tuple[str, str, str]:
        return self.link.run, self.link.settings, self.link.model

    def _count(self, model: ClientModel, marks: frozenset[str]) -> None:
        """Counts the tensors of a model that were sent, each once."""
        left = set(marks)
        for tensors in (model.tensors, *model.candidates):
            for name, tensor in tensors.items():
                if (mark := fingerprint_of(tensor)) in left:
                    left.discard(mark)
                    self.traffic.add("down", [(name, tensor)])

    def _size(self, client: ClientId, request: Request) -> Size:
        """How large a reply may be; much larger ones are refused unread."""
        model = request.model
        if isinstance(request, Train):
            return _size({name: model.tensors[name] for name in request.task.upload})
        if isinstance(request, Score):
            return Size()
        # Numbers per row, usage per module and expert, samples, and what is handed over.
        most = _size(model.tensors) if request.hand_over else Size()
        usage = len(model.spec.target_modules) * (PER_NAME + PER_EXPERT * model.spec.num_experts)
        samples = self.samples * len(SAMPLE_KEYS) * ESCAPED * TEXT
        return Size(most.arrays, most.tree + self.link.cards[client].test_rows * PER_ROW + usage + samples)


@dataclass(frozen=True)
class Checked:
    """A transport whose replies are right as a whole, or refused with what is wrong.

    Attributes:
        transport: gives replies as they came, after the filters.
        cards: client -> what it said of itself at the start.
        task: what clients optimise.
        samples: test rows that a client may send in clear text.
    """

    transport: Transport
    cards: Mapping[ClientId, ClientCard]
    task: Task
    samples: int = 0

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """Those of the transport."""
        return self.transport.clients()

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """See :class:`~fedlease.server.transport.Transport`; why a client is not scored is logged."""
        for client, reply in self.transport.send(requests):
            request = requests[client]
            checked = self.checked(self.cards[client], request, reply)
            if isinstance(checked, Refused) and not isinstance(request, Train):
                when = " at the end" if isinstance(request, Finish) else ""
                log.error("fedlease: %r is not scored%s: %s", client, when, checked.reason)
            yield client, checked

    def checked(self, card: ClientCard, request: Request, reply: Any) -> Reply:
        """A client's reply, or a refusal of it."""
        fault = "" if isinstance(reply, Refused) else self._fault(card, request, reply)
        return Refused(fault) if fault else reply

    def _fault(self, card: ClientCard, request: Request, reply: Any) -> str:
        match request:
            case Train():
                return update_fault(reply, request.task, card.id, card.train_rows)
            case Score():
                score = reply.score if isinstance(reply, Scored) else reply
                return "" if SHARE.holds(score) else f"its score must be a number in 0 .. 1, received {shown(score)}"
            case Finish():
                scores = reply.scores if isinstance(reply, Finished) else reply
                return scores_fault(scores, self.task, request.model, card.test_rows, self.samples)


def _kind(request: Request) -> str:
    """The type of the message that carries a request."""
    if isinstance(request, Train):
        return "train.task"
    return "evaluate.score" if isinstance(request, Score) else "evaluate.finish"


def _size(tensors: Tensors) -> Size:
    return Size(sum(tensor.nbytes for tensor in tensors.values()), PER_NAME * len(tensors))
