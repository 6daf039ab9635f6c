"""The transport between server and clients, and the count of bytes on it."""

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
        """Client -> its card, for all clients that take part now, including newcomers.

        A client whose card has weight 0 cannot learn: it is not asked to train, and is scored with the method's model
        for unknown clients.
        """

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """Sends every client its request and yields their replies as they arrive, one per client.

        Clients that have not replied within the seconds of their request may be left out.
        """


@dataclass
class Traffic:
    """Counts the bytes of training requests and their replies, after the filters; heads are counted separately."""

    _bytes: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0.0))

    def request(self, request: Request) -> None:
        """Counts a request: its tensors except private ones, every candidate, and the slope of a term."""
        if isinstance(request, Train):
            model, private = request.task.model, request.task.withheld
            # Without stages, the client already has the model.
            sent = model.tensors.items() if request.task.stages else ()
            self.add("down", ((name, tensor) for name, tensor in sent if name not in private))
            # The first candidate is the model's own tensors, unless it is only a reference for them.
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
        """Counts the sealed shares for a client, which are sent as text."""
        if request.masking is not None:
            self._bytes["bytes_down"] += sum(map(len, request.masking.sealed.values()))

    def aside(self, ask: SumAsk, told: object) -> None:
        """Counts the keys and shares in a message of a secure sum and its reply, which are sent as text."""
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
    """The connection between the rounds of one method and its clients.

    Attributes:
        transport: including its filters.
        traffic: counts the bytes that the transport carries.
        workers: clients in this process, whose private tensors are in the checkpoint; None if clients keep them on
            their own machines.
        memories: memories of the filters.
        hand_over: whether clients elsewhere give their private tensors to the server at the end. This is meant for
            simulations on one machine, so that their run folder is the same as without Flower.
    """

    transport: Transport
    traffic: Traffic = field(default_factory=Traffic)
    workers: Mapping[ClientId, ClientWorker] | None = None
    memories: Memories = field(default_factory=Memories)
    hand_over: bool = False
