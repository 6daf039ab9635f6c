"""Records for the audit trail: a transport that records what travels, and a listener that records decisions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedlease.client.messages import Finish, Finished, Refused, Reply, Request, Train, Trained
from fedlease.core.types import ClientId
from fedlease.data.federation import ClientCard
from fedlease.server.events import Event, MethodFinished, StepFinished, UpdateRefused
from fedlease.server.transport import Transport
from fedlease.storage.audit import Trail

__all__ = ["Recorded", "decisions"]


@dataclass
class Recorded:
    """A transport that records every request and reply of another one.

    Attributes:
        transport: carries requests and replies.
        trail: receives the records.
        method: name of the method whose requests these are.
    """

    transport: Transport
    trail: Trail
    method: str

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """The clients of the transport; clients that appear for the first time are recorded."""
        cards = self.transport.clients()
        for client, card in sorted(cards.items()):
            if self.trail.first("joined", client, card.fingerprint):
                rows = {"train_rows": card.train_rows, "valid_rows": card.valid_rows, "test_rows": card.test_rows}
                about = {"task": card.task, "labels": len(card.labels), "rows_sha256": card.fingerprint}
                about |= {"key": card.key} if card.key else {}
                self.trail.add("joined", client=client, **about, **rows)
        return cards

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """Sends the requests and yields the replies, and records hashes of both."""
        for client, request in requests.items():
            private = request.task.withheld if isinstance(request, Train) else frozenset[str]()
            tensors = {name: tensor for name, tensor in request.model.tensors.items() if name not in private}
            about: dict[str, Any] = {"asked": "finish" if isinstance(request, Finish) else "score"}
            if isinstance(request, Train):
                about = {"asked": "train", "phase": request.task.phase, "round": request.task.round}
            about |= {"candidates": len(request.model.candidates)} if request.model.candidates else {}
            self.trail.tensors("sent", tensors, client=client, method=self.method, **about)
        self.trail.flush()
        for client, reply in self.transport.send(requests):
            match reply:
                case Trained():
                    update = reply.update
                    about = {"phase": update.phase, "round": update.round, "rows": update.num_examples}
                    about |= {} if reply.epsilon is None else {"epsilon": reply.epsilon}
                    about |= {"clients": reply.summed} if reply.summed else {}
                    request = requests[client]
                    about |= {"sketch": True} if isinstance(request, Train) and request.task.sketch is not None else {}
                    kind = "summed" if reply.summed else "received"
                    self.trail.tensors(kind, update.tensors, client=client, method=self.method, **about)
                case Refused():
                    self.trail.add("declined", client=client, method=self.method, reason=reply.reason)
                case Finished():
                    rows = reply.scores.num_test
                    self.trail.add("scored", client=client, method=self.method, test_rows=rows)
                case _:
                    self.trail.add("scored", client=client, method=self.method)
            yield client, reply
        self.trail.flush()


def decisions(trail: Trail, event: Event) -> None:
    """Records refusals, suspects, and the end of a method."""
    match event:
        case UpdateRefused():
            trail.add("refused", client=event.client, method=event.method, round=event.round, reason=event.reason)
        case StepFinished():
            for client, odd in sorted(event.record.get("suspects", {}).items()):
                trail.add("suspect", client=client, method=event.method, round=event.record["round"], found=list(odd))
            trail.flush()
        case MethodFinished():
            trail.add("finished", method=event.method)
            trail.flush()
