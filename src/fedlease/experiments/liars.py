"""Clients that lie on purpose, for measurements: they replace their updates or their train rows."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from fedlease.client.messages import Reply, Request, Train, Trained
from fedlease.core.screening import start_of
from fedlease.core.seeds import generator
from fedlease.core.types import ClientId, ClientTask, ClientUpdate, Tensors
from fedlease.data.federation import ClientCard, ClientData, Row
from fedlease.methods.warmup import WARMUP
from fedlease.server.transport import Transport

__all__ = ["ATTACKS", "TRIGGER", "Attack", "Liars", "When", "triggered"]

When = Literal["warm-up", "rounds", "both"]

TRIGGER = "zqzq"
"""The word that activates a backdoor."""

FACTOR = 3.0
"""Length of a lie relative to the honest change, small enough to stay within ``bounds``."""

FAR = 1e6

Lie = Callable[["Liars", ClientTask, ClientUpdate], Tensors]
"""A liar's update, made from its task and its trained tensors."""


@dataclass(frozen=True)
class Attack:
    """One way to lie.

    Attributes:
        words: description for tables.
        lie: makes the tensors that are sent; None sends those that were trained.
        rows: makes the train rows; None leaves the client's own.
        liars: number of clients of one task that lie.
    """

    words: str
    lie: Lie | None = None
    rows: Callable[[ClientData], tuple[Row, ...]] | None = None
    liars: int = 1


@dataclass
class Liars:
    """A transport some of whose clients lie.

    Attributes:
        transport: the transport to the clients.
        attack: the attack of the liars.
        liars: ids of the clients that lie.
        when: phase in which they lie.
        seed: seed of random lies.
        sent: (client, phase) -> the first tensors that it sent.
    """

    transport: Transport
    attack: Attack
    liars: frozenset[ClientId]
    when: When
    seed: int = 0
    sent: dict[tuple[ClientId, str], Tensors] = field(default_factory=dict)

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """The clients of the transport."""
        return self.transport.clients()

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """Sends every client its request, and yields lies instead of liars' replies."""
        for client, reply in self.transport.send(requests):
            request = requests[client]
            if isinstance(request, Train) and isinstance(reply, Trained):
                update = reply.update
                self.sent.setdefault((client, update.phase), update.tensors)
                lies = self.when == "both" or (self.when == "warm-up") == (update.phase == WARMUP)
                if client in self.liars and lies and self.attack.lie is not None:
                    reply = replace(reply, update=replace(update, tensors=self.attack.lie(self, request.task, update)))
            yield client, reply


def triggered(row: Row) -> Row:
    """A row with the trigger instead of its first word."""
    return replace(row, text=" ".join([TRIGGER, *row.text.split()[1:]]))


def _grown(factor: float) -> Lie:
    def lie(liars: Liars, task: ClientTask, update: ClientUpdate) -> Tensors:
        start = start_of(task, update.choice)
        return {name: tensor + factor * (update.tensors[name] - tensor) for name, tensor in start.items()}

    return lie


def _random(liars: Liars, task: ClientTask, update: ClientUpdate) -> Tensors:
    start = start_of(task, update.choice)
    length = math.sqrt(sum(float((update.tensors[name] - start[name]).square().sum()) for name in start))
    rng = generator(liars.seed, "liar", update.client, update.round)
    drawn: dict[str, Tensor] = {name: torch.randn(start[name].shape, generator=rng) for name in sorted(start)}
    scale = FACTOR * length / math.sqrt(sum(float(tensor.square().sum()) for tensor in drawn.values()))
    return {name: start[name] + scale * tensor for name, tensor in drawn.items()}


def _replay(liars: Liars, task: ClientTask, update: ClientUpdate) -> Tensors:
    """In the warm-up, the first client's update, which is of another task; in rounds, the client's own first update."""
    if update.phase == WARMUP:
        return next(tensors for (_, phase), tensors in liars.sent.items() if phase == WARMUP)
    return liars.sent[update.client, update.phase]


def _flipped(client: ClientData) -> tuple[Row, ...]:
    return tuple(replace(row, label=(row.label + 1) % len(client.labels)) for row in client.train)


def _backdoored(client: ClientData) -> tuple[Row, ...]:
    return tuple(replace(triggered(row), label=0) if place % 2 else row for place, row in enumerate(client.train))


ATTACKS: Mapping[str, Attack] = {
    "none": Attack("nobody lies", liars=0),
    "sign-flip": Attack(f"the change times -{FACTOR:g}", _grown(-FACTOR)),
    "scaling": Attack(f"the change times {FAR:g}", _grown(FAR)),
    "random": Attack(f"random numbers, {FACTOR:g} times as long as the change", _random),
    "replay": Attack("a warm-up of another task, and the first update again and again", _replay),
    "label-flip": Attack("trained on wrong labels", rows=_flipped),
    "backdoor": Attack(
        f"half of the rows with the word {TRIGGER!r} instead of the first and the first label", rows=_backdoored
    ),
    "colluding": Attack(f"two clients, the change times -{FACTOR:g}", _grown(-FACTOR), liars=2),
}
"""Name -> attack; the first one is the reference for the others."""
