"""The server's half of a run: steps over clients on any transport, with a checkpoint after every step."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from fedlease.client.messages import (
    FinalScores,
    Finish,
    Finished,
    Refused,
    Reply,
    Request,
    Score,
    Scored,
    Train,
    Trained,
)
from fedlease.core.types import ClientId, ClientModel, ClientTask, head_names
from fedlease.data.federation import NO_TEST_ROWS, ClientCard
from fedlease.errors import RunFailedError, UpdateRefusedError
from fedlease.methods.base import Method, State, rounds_for_warmup
from fedlease.server.deadline import late
from fedlease.server.dry import NoCheckpoint
from fedlease.server.events import (
    Allocated,
    ClientFinished,
    Event,
    Listener,
    MethodStarted,
    StepFinished,
    StepStarted,
    UpdateRefused,
)
from fedlease.server.ledger import Ledger
from fedlease.server.participation import Participation
from fedlease.server.schedule import AllReplies, Schedule
from fedlease.server.screen import Screen
from fedlease.server.step import Step
from fedlease.server.stopping import EarlyStopping
from fedlease.server.transport import Channel
from fedlease.storage.checkpoint import Checkpoint
from fedlease.storage.saved import Best, Saved

__all__ = ["RoundLoop"]


@dataclass
class RoundLoop:
    """Runs one method from its last checkpoint to its end.

    Attributes:
        name: of the method, for events and files.
        method: with its head policy.
        channel: to the clients.
        participation: rule for the clients that take part in a step.
        checkpoint: records every step.
        listeners: receive every event.
        seed: root seed of the run.
        schedule: rule for the end of a step.
        stopping: ends the method early if rounds no longer help.
        screen: refuses updates that no honest client sends, and names suspicious ones.
        totals: bytes and seconds so far.
        cards: client -> its card.
        unscored: client -> the reason why it has no final scores.
        best: the best round, known at the end of the method; None without early stopping.
    """

    name: str
    method: Method
    channel: Channel
    participation: Participation
    checkpoint: Checkpoint | NoCheckpoint
    listeners: Sequence[Listener]
    seed: int
    schedule: Schedule = field(default_factory=AllReplies)
    stopping: EarlyStopping = field(default_factory=EarlyStopping)
    screen: Screen = field(default_factory=Screen)
    totals: dict[str, float] = field(default_factory=dict)
    cards: Mapping[ClientId, ClientCard] = field(default_factory=dict)
    unscored: dict[ClientId, str] = field(default_factory=dict)
    best: Best | None = None

    def __post_init__(self) -> None:
        self._ledger = Ledger(self.channel.workers, self.channel.memories)
        self._saved: Saved | None = None

    def run(self, initial: ClientModel) -> State:
        """Runs the method to its end, starting from its checkpoint if there is one.

        Args:
            initial: the adapter that all clients start from.

        Returns:
            The method's last state.

        Raises:
            RunFailedError: too few usable updates in a step, or a checkpoint that cannot be written.
        """
        saved = self.checkpoint.load()
        self.checkpoint.clean()
        if saved is None:
            self.cards = self.channel.transport.clients()
            learners = {client: card.weight for client, card in sorted(self.cards.items()) if card.weight}
            saved = Saved(self.name, 0, self.method.init(initial, learners, self.seed), {})
            self.checkpoint.commit(saved)
        self._ledger.resume(saved)
        self.totals, self.screen = dict(saved.totals), replace(self.screen, seen=saved.seen)
        self._tell(MethodStarted(self.name, self.method.last_round, saved.step))
        while not saved.finished:
            saved = self._step(saved)
        self._saved, self.best = saved, saved.best
        return saved.state

    def finish(self, untrained: Callable[[ClientId], ClientModel]) -> dict[ClientId, FinalScores]:
        """Scores every client's personalised model on its own test rows.

        Args:
            untrained: returns a client's initial adapter and head.

        Returns:
            Client -> final scores; ``unscored`` has the reasons for the other clients.

        Raises:
            RunFailedError: no client could be scored.
        """
        assert self._saved is not None  # run comes first
        state, hand_over = self._saved.state, self.channel.hand_over
        self.cards = self.channel.transport.clients()
        # Newcomers since the last step take no part. Clients that cannot learn are scored but not in the state.
        clients = [c for c, card in sorted(self.cards.items()) if c in state.clients or not card.weight]
        requests: dict[ClientId, Request] = {
            c: Finish(
                self.name, self.method.model(state, c), untrained(c), **self._ledger.standing(c), hand_over=hand_over
            )
            for c in clients
        }
        replies = dict(self.channel.transport.send(requests))
        finished = {client: reply for client, reply in sorted(replies.items()) if isinstance(reply, Finished)}
        self.unscored = {client: _reason(reply) for client, reply in replies.items() if client not in finished}
        if not finished:
            reasons = "; ".join(f"{client}: {reason}" for client, reason in sorted(self.unscored.items()))
            raise RunFailedError(f"{self.name}: no client could be scored at the end. {reasons}")
        if hand_over:
            handed = {client: reply.private for client, reply in finished.items() if reply.private is not None}
            # Clients that have not replied keep their tensors, and their entry in the record.
            self.checkpoint.commit(replace(self._saved, private={**self._ledger.slots(), **handed}))
        return {client: reply.scores for client, reply in finished.items()}

    def _step(self, saved: Saved) -> Saved:
        step = self._plan(saved)
        if not step.tasks or self.stopping.ends(saved.best):
            return self._end(replace(saved, state=step.state, finished=True))
        self._tell(StepStarted(self.name, step.phase, step.state.round, tuple(step.tasks)))
        self._score_others(step)
        self._send(step)
        self._require_quorum(step)
        after, private = self._aggregate(step), self._ledger.slots()
        best = self.stopping.compare(self.method, step, after, self._scored, self.cards, private, saved.best)
        self._ledger.remember(best)
        return self._commit(step, after, best)

    def _end(self, saved: Saved) -> Saved:
        """Commits the end of the method; under early stopping, the best round replaces the last one."""
        if saved.best is not None:
            saved = replace(saved, state=saved.best.state, private=saved.best.private)
            self._ledger.restore(saved.private, saved.step, finished=True, best=saved.best)
        self.checkpoint.commit(saved)
        return saved

    def _plan(self, saved: Saved) -> Step:
        """Plans the requests of a step, after admitting newcomers."""
        self.cards = self.channel.transport.clients()
        state: State = saved.state
        for client, card in sorted(self.cards.items()):
            if card.weight and client not in state.clients:
                state = self.method.admit(state, client, card.weight)
        # Clients whose warm-up was refused once are asked again; after a second refusal they join later.
        tried = frozenset(client for client, count in state.warmup.refusals.items() if count)
        task, first = partial(self.method.task, state), rounds_for_warmup(self.method)
        asked = self.participation.choose(sorted(state.clients), task, state.round, self.seed, first, tried)
        order = self.schedule.order(list(asked), state.round, self.seed)
        return Step(saved.step + 1, state, {client: asked[client] for client in order}, tried)

    def _score_others(self, step: Step) -> None:
        """Scores the clients that are not asked to train, if clients are sampled."""
        if not self.participation.scores_everyone(step.state.round):
            return
        begun = time.perf_counter()
        others = sorted(step.state.clients.keys() - step.tasks.keys())
        step.unscored = {client: NO_TEST_ROWS for client in others if not self.cards[client].test_rows}
        models = {c: self.method.model(step.state, c) for c in others if c not in step.unscored}
        for client, reply in self._scored(models):
            if isinstance(reply, Scored):
                step.records[client] = {"score": reply.score}
            else:
                step.unscored[client] = _reason(reply)
        step.seconds["evaluate"] += time.perf_counter() - begun

    def _scored(self, models: Mapping[ClientId, ClientModel], **fields: Any) -> Iterable[tuple[ClientId, Reply]]:
        asked = {c: Score(self.name, model, **self._ledger.standing(c), **fields) for c, model in models.items()}
        return self.channel.transport.send(asked) if asked else ()

    def _send(self, step: Step) -> None:
        """Sends the tasks and takes replies until all have arrived or the schedule closes the step."""
        limit, why, group = self.schedule.seconds(step.state.round), "", partial(self.method.group, step.state)
        requests: dict[ClientId, Request] = {
            c: Train(self.name, step.number, task, **self._ledger.standing(c), seconds=limit, group=group(c))
            for c, task in step.tasks.items()
        }
        for client, reply in self.channel.transport.send(requests):
            if limit is None or not isinstance(reply, Trained) or reply.seconds <= limit:
                self._check(step, client, reply)
            if why := self.schedule.closes(step.state.round, len(step.used)):
                break
        step.leave(why or late(limit or 0))
        self.screen.compare(step, group, self._refuse)

    def _check(self, step: Step, client: ClientId, reply: Reply) -> None:
        """Checks a reply and records it as used or refused."""
        task = step.tasks[client]
        try:
            if not isinstance(reply, Trained):
                raise UpdateRefusedError(client, _reason(reply))
            step.seconds["train"] += reply.train_seconds
            step.seconds["evaluate"] += reply.evaluate_seconds
            step.records[client] = step.entry(task, reply)
            record, spent = step.records[client], reply.train_seconds
            values = {key: float(number) for key, number in record.items() if key in ("loss", "score")}
            self._tell(ClientFinished(self.name, task.phase, task.round, client, values, spent, reply.reused))
            self.screen.check(step, client, reply.update, self.cards[client].weight)
        except UpdateRefusedError as error:
            self._refuse(step, client, error.reason)
        else:
            step.used[client] = reply

    def _refuse(self, step: Step, client: ClientId, reason: str) -> None:
        """Records an update as refused, even if it counted as used before."""
        task = step.tasks[client]
        step.used.pop(client, None)
        step.refused[client] = reason
        self._tell(UpdateRefused(self.name, task.phase, task.round, client, reason))

    def _require_quorum(self, step: Step) -> None:
        # Second tries of the warm-up may fail: the waves before them had enough updates.
        if step.state.round == 0 and step.tried.issuperset(step.tasks):
            return
        try:
            self.participation.require(self.name, step.state.round, len(step.used), len(step.tasks), step.refused)
        except RunFailedError:
            self.checkpoint.note(step.line(self.name))
            raise

    def _aggregate(self, step: Step) -> State:
        """The method's next state; the used updates are recorded in the ledger."""
        begun = time.perf_counter()
        updates = [reply.update for reply in step.used.values()]
        after: State = self.method.aggregate(step.state, updates, absent=frozenset(step.refused))
        used = {client: step.tasks[client] for client in step.used}
        self._ledger.accept(step.number, used, lambda client: self.method.model(after, client))
        step.seconds["aggregate"] += time.perf_counter() - begun
        return after

    def _commit(self, step: Step, after: State, best: Best | None) -> Saved:
        """Writes the checkpoint and the line of ``rounds.jsonl``."""
        counted, seconds = self.channel.traffic.take(), {f"seconds_{name}": t for name, t in step.seconds.items()}
        for key, value in {**counted, **seconds}.items():
            self.totals[key] = self.totals.get(key, 0.0) + value
        self.totals["trainable"] = max(self.totals.get("trainable", 0), *map(_adapter_parameters, step.tasks.values()))
        spent = {**step.seconds, "step": time.perf_counter() - step.started}
        record = {
            **step.line(self.name),
            **step.scored(self.cards, score_rounds=self.participation.score_rounds),
            "clients": {client: step.records[client] for client in sorted(step.records)},
            **{key: int(value) for key, value in counted.items()},
            "seconds": {key: round(value, 3) for key, value in spent.items()},
        }
        self.screen = self.screen.remember(step)
        totals, seen = dict(self.totals), self.screen.seen
        saved = Saved(self.name, step.number, after, totals=totals, best=best, seen=seen, **self._ledger.saved())
        self.checkpoint.commit(saved, record)
        if after.allocation is not None and step.state.allocation is None:
            self._tell(Allocated(self.name, after.allocation))
        self._tell(StepFinished(self.name, record))
        return saved

    def _tell(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)


def _reason(reply: Reply) -> str:
    return reply.reason if isinstance(reply, Refused) else f"its reply is a {type(reply).__name__}"


def _adapter_parameters(task: ClientTask) -> int:
    return sum(task.model.tensors[name].numel() for name in task.trainable - head_names(task.model.tensors))
