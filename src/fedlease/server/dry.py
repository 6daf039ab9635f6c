"""A transport without clients: it makes up replies and counts the work that real clients would do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fedlease.client.cache import begins_with
from fedlease.client.messages import (
    FinalScores,
    Finish,
    Finished,
    Masked,
    Reply,
    Request,
    Score,
    Scored,
    Train,
    Trained,
)
from fedlease.client.sum_messages import is_summed
from fedlease.core.seeds import generator
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, TensorName
from fedlease.data.federation import ClientCard
from fedlease.methods.warmup import WARMUP
from fedlease.privacy.differences import Differences
from fedlease.privacy.masking import width_of
from fedlease.server.filters import Filter, received_here, sent_here
from fedlease.server.group_sum import Rules
from fedlease.server.memories import Memories
from fedlease.server.transport import Traffic
from fedlease.storage.saved import Saved

__all__ = ["DryTransport", "NoCheckpoint", "Work"]


@dataclass
class Work:
    """Rows that clients would compute with, each counted once per pass.

    Attributes:
        trained: in training.
        compared: in the choice among candidates.
        scored: in scoring.
    """

    trained: int = 0
    compared: int = 0
    scored: int = 0


@dataclass
class DryTransport:
    """Replies at once: warm-ups are made up so that clients fall into groups, later updates are what was received with
    other A and B for every client, or changed at random where there are filters.

    Attributes:
        cards: client -> what is known of it.
        start: the common start.
        num_groups: that the warm-ups fall into.
        score_rounds: whether received models are scored before they are trained.
        done: first steps that earlier methods of the run did and that are not done again; this method's are added.
        filters: those whose client half is here.
        traffic: counts what would travel.
        work: counts what would be computed.
        memories: of the filters.
        sums: how updates are summed securely; they are counted as they would travel, and are not masked.
    """

    cards: Mapping[ClientId, ClientCard]
    start: ClientModel
    num_groups: int
    score_rounds: bool = True
    done: set[tuple[object, ...]] = field(default_factory=set)
    filters: Sequence[Filter] = ()
    traffic: Traffic = field(default_factory=Traffic)
    work: Work = field(default_factory=Work)
    memories: Memories = field(default_factory=Memories)
    sums: Rules | None = None

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """See :class:`~fedlease.server.transport.Transport`."""
        return self.cards

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """See :class:`~fedlease.server.transport.Transport`."""
        for client, request in requests.items():
            self.traffic.request(request)
            received = received_here(client, request, self.filters, self.memories)
            reply = sent_here(client, received, self._reply(client, received), self.filters, self.memories)
            self.traffic.reply(self._travelling(request, reply))
            yield client, reply

    def _reply(self, client: ClientId, request: Request) -> Reply:
        card, model = self.cards[client], request.model
        self.work.compared += len(model.candidates) * card.train_rows
        match request:
            case Train():
                self._count(client, request)
                return Trained(self._update(client, request.task), None, 0, 0.0, 0.0)
            case Score():
                self.work.scored += card.test_rows
                return Scored(0.0)
            case Finish():
                self.work.scored += card.test_rows * (2 if model.spec.routed else 1)
                return Finished(FinalScores({}, card.test_rows))

    def _travelling(self, request: Request, reply: Reply) -> Reply:
        if (
            not isinstance(request, Train)
            or not is_summed(request.task)
            or self.sums is None
            or not isinstance(reply, Trained)
        ):
            return reply
        total = sum(card.train_rows for card in self.cards.values())
        numbers = 1 + sum(tensor.numel() for tensor in reply.update.tensors.values())
        width = width_of(total if self.sums.weighted else len(self.cards), self.sums.resolution)
        return Masked(reply, torch.empty(numbers * width, dtype=torch.uint8))

    def _count(self, client: ClientId, request: Train) -> None:
        task, card = request.task, self.cards[client]
        # A client with private tensors no longer trains from the common start.
        if not request.keeps and begins_with(self.start, task, task.model.tensors):
            stages = tuple((tuple(sorted(stage.trainable)), stage.epochs) for stage in task.stages)
            step = (client, task.round, stages, task.halves)
            if step in self.done:
                return
            self.done.add(step)
        self.work.trained += sum(stage.epochs for stage in task.stages) * card.train_rows
        self.work.scored += card.test_rows if self.score_rounds and task.stages else 0

    def _update(self, client: ClientId, task: ClientTask) -> ClientUpdate:
        number = sorted(self.cards).index(client)
        group = number % self.num_groups
        tensors = task.expected
        if task.phase == WARMUP:
            tensors = {
                name: torch.randn(tensor.shape, generator=generator(0, "estimate", group, _of_one_half(name)))
                for name, tensor in tensors.items()
            }
        elif not all(isinstance(one, Differences) and one.kept_alone for one in self.filters):
            # Some filters send what has changed, in codes whose size depends on it: everything has, as if at random.
            tensors = {
                name: tensor + torch.randn(tensor.shape, generator=generator(0, "estimate", client, task.round, name))
                for name, tensor in tensors.items()
            }
        else:
            # Whatever is made of the differences between clients has some, but little work is spent on making them up.
            tensors = {
                name: tensor + 0.01 * (number + 1) if TensorName.parse(name).kind in "AB" else tensor
                for name, tensor in tensors.items()
            }
        candidates = task.model.candidates
        # Nobody leaves a reference: who is unsure goes on comparing, which is what costs most.
        choice = group % len(candidates) * (not task.model.reference) if candidates else None
        rows = self.cards[client].train_rows
        return ClientUpdate(client, task.phase, task.round, rows, tensors, choice, {"loss": 0.0})


def _of_one_half(name: str) -> str:
    """The same for both halves of a client's rows, which have learnt the same."""
    parsed = TensorName.parse(name)
    return str(parsed if parsed.expert is None else parsed._replace(expert=0))


class NoCheckpoint:
    """Steps that are recorded nowhere."""

    def load(self) -> Saved | None:
        """Nothing."""
        return None

    def clean(self) -> None:
        """Nothing."""

    def commit(self, saved: Saved, record: Mapping[str, Any] | None = None) -> None:
        """Nothing."""

    def note(self, record: Mapping[str, Any]) -> None:
        """Nothing."""
