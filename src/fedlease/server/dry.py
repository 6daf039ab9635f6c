"""A transport without clients, which makes up replies and counts the work and bytes of real clients."""

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
    """Rows that clients would process, each counted once per pass.

    Attributes:
        trained: rows for training.
        compared: rows for the choice among candidates.
        scored: rows for scoring.
    """

    trained: int = 0
    compared: int = 0
    scored: int = 0


@dataclass
class DryTransport:
    """Replies at once, with made-up updates.

    Warm-ups are random, and equal within each of a given number of groups. Later updates are the received tensors with
    small changes to A and B, or with random changes if filters encode changes.

    Attributes:
        cards: client -> its card.
        start: adapter that all clients start from.
        num_groups: number of groups of equal warm-ups.
        score_rounds: whether received models are scored before they are trained.
        done: first steps of earlier methods of the run, which are not repeated; those of this method are added.
        filters: filters whose client half runs here.
        traffic: counts the bytes that would travel.
        work: counts the rows that would be processed.
        memories: memories of the filters.
        sums: rules of secure sums, for counting the bytes of masked updates; None without them.
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
            # The size of encoded changes depends on their values, so all values change at random.
            tensors = {
                name: tensor + torch.randn(tensor.shape, generator=generator(0, "estimate", client, task.round, name))
                for name, tensor in tensors.items()
            }
        else:
            # Clients differ a little, which is cheap to compute and enough for methods that compare them.
            tensors = {
                name: tensor + 0.01 * (number + 1) if TensorName.parse(name).kind in "AB" else tensor
                for name, tensor in tensors.items()
            }
        candidates = task.model.candidates
        # Unsure clients never join others, so that they go on comparing, which is the most expensive case.
        choice = group % len(candidates) * (not task.model.reference) if candidates else None
        rows = self.cards[client].train_rows
        return ClientUpdate(client, task.phase, task.round, rows, tensors, choice, {"loss": 0.0})


def _of_one_half(name: str) -> str:
    """The name of the first half's tensor, so that both halves of a warm-up are equal."""
    parsed = TensorName.parse(name)
    return str(parsed if parsed.expert is None else parsed._replace(expert=0))


class NoCheckpoint:
    """A checkpoint that records nothing."""

    def load(self) -> Saved | None:
        """Returns None."""
        return None

    def clean(self) -> None:
        """Does nothing."""

    def commit(self, saved: Saved, record: Mapping[str, Any] | None = None) -> None:
        """Does nothing."""

    def note(self, record: Mapping[str, Any]) -> None:
        """Does nothing."""
