"""A transport for clients in this process, which share one base model and work one by one or several in one step."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedlease.client.ahead import alone_of, candidates_of, job_of, scoring_of, untrained_of
from fedlease.client.messages import Finish, Reply, Request, Train
from fedlease.client.results import Ahead
from fedlease.client.secure_sums import Member
from fedlease.client.stacked import Stacker
from fedlease.client.sum_messages import SumAsk
from fedlease.client.worker import ClientWorker
from fedlease.core.types import ClientId
from fedlease.data.federation import ClientCard
from fedlease.server.filters import Filter, received_here, sent_here
from fedlease.server.memories import Memories
from fedlease.server.transport import Traffic

__all__ = ["InProcess"]


@dataclass(frozen=True)
class InProcess:
    """A transport for clients in this process.

    Attributes:
        cards: client -> its card.
        workers: client -> the worker that handles its requests.
        traffic: counts the bytes that would travel.
        filters: filters whose client half runs here.
        stacker: trains several clients in one step; None trains one by one.
        memories: memories of the filters.
        members: client -> its half of secure sums; None without them.
    """

    cards: Mapping[ClientId, ClientCard]
    workers: Mapping[ClientId, ClientWorker]
    traffic: Traffic
    filters: Sequence[Filter] = ()
    stacker: Stacker | None = None
    memories: Memories = field(default_factory=Memories)
    members: Mapping[ClientId, Member] | None = None

    def clients(self) -> Mapping[ClientId, ClientCard]:
        """See :class:`~fedlease.server.transport.Transport`."""
        return self.cards

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """Yields replies one by one; a client works when its reply is taken, stacked clients when the first is."""
        # Before the loop: scoring the untrained model between mixtures would rebuild the adapter for every client.
        self._score_untrained({c: one for c, one in requests.items() if isinstance(one, Finish)})
        waiting = list(requests)
        while waiting:
            size = 1 if self.stacker is None else self.stacker.clients
            received = {c: received_here(c, requests[c], self.filters, self.memories) for c in waiting[:size]}
            waiting = waiting[size:]
            self._work_ahead(received)
            for client, request in received.items():
                self.traffic.request(requests[client])
                reply = self._reply(client, request)
                self.workers[client].ahead = Ahead()  # frees the tensors computed ahead
                self.traffic.reply(reply)
                yield client, reply

    def ask(self, asked: Mapping[ClientId, SumAsk]) -> Iterator[tuple[ClientId, Any]]:
        """See :class:`~fedlease.server.secure_sums.Asking`."""
        assert self.members is not None  # else nobody asks
        for client, ask in asked.items():
            told = self.members[client].tell(ask)
            self.traffic.aside(ask, told)
            yield client, told

    def _reply(self, client: ClientId, request: Request) -> Reply:
        member = (self.members or {}).get(client)
        if member is not None and (refusal := member.accepts(request)) is not None:
            return refusal
        reply = self.workers[client].handle(request)
        if member is not None and isinstance(request, Train) and request.masking is not None:
            # Masked updates cannot be filtered.
            return member.masked(request, reply)
        return sent_here(client, request, reply, self.filters, self.memories)

    def _score_untrained(self, requests: Mapping[ClientId, Finish]) -> None:
        """Scores the untrained model for every client that has test rows."""
        workers = {client: self.workers[client] for client in requests if len(self.workers[client].client.test)}
        if self.stacker is not None:
            jobs = [untrained_of(worker, requests[client]) for client, worker in workers.items()]
            for client, measured in self.stacker.score([job for job in jobs if job is not None]).items():
                cache, model = workers[client].cache, requests[client].untrained
                cache.put(cache.score_key(client, model, model.tensors), measured)
        for client, worker in workers.items():
            worker.score_untrained(requests[client].untrained)

    def _work_ahead(self, received: Mapping[ClientId, Request]) -> None:
        """Scores and trains those of these clients together that can be stacked."""
        if self.stacker is None:
            return
        workers = {client: self.workers[client] for client in received}
        begun = time.perf_counter()
        choices = self._choices(received)
        comparing = (time.perf_counter() - begun) / max(len(choices), 1)
        scorings = [scoring_of(workers[c], request, choices.get(c)) for c, request in received.items()]
        jobs = [job_of(workers[c], request, choices.get(c)) for c, request in received.items()]
        begun = time.perf_counter()
        scored = self.stacker.score([scoring for scoring in scorings if scoring is not None])
        each = (time.perf_counter() - begun) / max(len(scored), 1)
        trained = self.stacker.train([job for job in jobs if job is not None])
        alone = [alone_of(workers[c], request, choices.get(c)) for c, request in received.items()]
        by_itself, task = self.stacker.score([job for job in alone if job is not None]), self.stacker.task
        for client, worker in workers.items():
            seconds = each * (client in scored) + comparing * (client in choices)
            own = by_itself[client].metrics[task.metric] if client in by_itself else None
            worker.ahead = Ahead(trained.get(client), scored.get(client), seconds, own, choices.get(client))

    def _choices(self, received: Mapping[ClientId, Request]) -> dict[ClientId, int]:
        """Client -> its best candidate, for clients with candidates that can be stacked."""
        assert self.stacker is not None
        losses = self.stacker.losses(
            [job for c, one in received.items() for job in candidates_of(self.workers[c], one)]
        )
        choices = {}
        for client, request in received.items():
            own = [losses.get((client, number)) for number in range(len(request.model.candidates))]
            known = [loss for loss in own if loss is not None]
            if known and len(known) == len(own):
                choices[client] = request.model.choose(known)
        return choices
