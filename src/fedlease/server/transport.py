"""How a server reaches its clients, wherever they are, and what travels between them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from fedlease.client.messages import Masked, Reply, Request, Train, Trained
from fedlease.client.sum_messages import AskShares, SumAsk, SumKeys, SumSeeds, SumShares
from fedlease.client.worker import ClientWorker
from fedlease.core.types import HEAD, ClientId
from fedlease.data.federation import ClientCard
from fedlease.server.memories import Memories

__all__ = ["COUNTED", "Channel", "Traffic", "Transport"]

COUNTED = ("bytes_up", "bytes_down", "head_bytes_up", "head_bytes_down")


class Transport(Protocol):
    """Carries requests to clients and replies back."""

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """The clients that take part now; newcomers appear here.

        A client whose card weighs nothing cannot learn: it is not asked to train, and is scored with what the method
        has for clients that it does not know.
        """

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """Sends every client its request and yields one reply each, as they come in.

        A client that has not replied within the seconds of its request may be left out.
        """


@dataclass
class Traffic:
    """Counts the bytes of training requests and their replies as they travel, after the filters; heads apart."""

    _bytes: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0.0))

    def request(self, request: Request) -> None:
        """Counts a request that travels whole: all tensors but private ones, every candidate, the slope of a term."""
        if isinstance(request, Train):
            model, private = request.task.model, request.task.withheld
            # If nothing is trained, the client has the model from the previous message.
            sent = model.tensors.items() if request.task.stages else ()
            self.add("down", ((name, tensor) for name, tensor in sent if name not in private))
            # The model's own tensors are one of the candidates, unless one only stands for them.
            for candidate in model.candidates if model.reference else model.candidates[1:]:
                self.add("down", candidate.items())
            if request.task.term is not None:
                self.add("down", request.task.term.slope.items())
            self.sealed(request)

    def reply(self, reply: Reply) -> None:
        """Counts the update in a reply."""
        if isinstance(reply, Trained):
            self.add("up", reply.update.tensors.items())
        if isinstance(reply, Masked):
            self.add("up", [("masked", reply.values)])

    def sealed(self, request: Train) -> None:
        """Counts what is sealed for a client, which travels as text."""
        if request.masking is not None:
            self._bytes["bytes_down"] += sum(map(len, request.masking.sealed.values()))

    def aside(self, ask: SumAsk, told: object) -> None:
        """Counts a message of a secure sum and the reply: keys and shares, which travel as text."""
        if isinstance(ask, AskShares):
            self._bytes["bytes_down"] += sum(len(keys.mask) + len(keys.seal) for keys in ask.keys.values())
        match told:
            case SumKeys():
                self._bytes["bytes_up"] += len(told.mask) + len(told.seal)
            case SumShares():
                self._bytes["bytes_up"] += sum(map(len, told.sealed.values()))
            case SumSeeds():
                self._bytes["bytes_up"] += sum(map(len, (*told.seeds.values(), *told.keys.values())))

    def add(self, direction: Literal["up", "down"], tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Counts named tensors."""
        for name, tensor in tensors:
            prefix = "head_" if name.startswith(f"{HEAD}/") else ""
            self._bytes[f"{prefix}bytes_{direction}"] += tensor.numel() * tensor.element_size()

    def take(self) -> dict[str, float]:
        """The counts since the last call."""
        counted, self._bytes = self._bytes, dict.fromkeys(COUNTED, 0.0)
        return counted


@dataclass(frozen=True)
class Channel:
    """The parts that an engine supplies to the rounds of one method.

    Attributes:
        transport: with its filters around it.
        traffic: counts what the transport carries.
        workers: the clients where they are in this process, whose private tensors the checkpoint holds; None where
            clients keep those on their own machines.
        memories: of the filters.
        hand_over: whether clients on their own machines give their private tensors to the server at the end: only where
            all machines are one, and the run folder is to hold what it holds without Flower.
    """

    transport: Transport
    traffic: Traffic = field(default_factory=Traffic)
    workers: Mapping[ClientId, ClientWorker] | None = None
    memories: Memories = field(default_factory=Memories)
    hand_over: bool = False
