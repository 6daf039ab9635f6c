"""The server's half of a run: the round loop over clients wherever they are, with a checkpoint after every step."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedlease.client.messages import Trained
from fedlease.core.aggregate import check_update
from fedlease.core.types import ClientId, ClientModel, ClientTask, head_names
from fedlease.data.federation import NO_TEST_ROWS, NOTHING_TO_LEARN
from fedlease.errors import RunFailedError, UpdateRefusedError
from fedlease.methods.base import Method, rounds_for_warmup
from fedlease.methods.warmup import WARMUP
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
from fedlease.server.participation import Participation
from fedlease.server.transport import Fleet
from fedlease.storage.checkpoint import Checkpoint, Saved

__all__ = ["RoundLoop"]

COUNTED = ("bytes_up", "bytes_down", "head_bytes_up", "head_bytes_down")


class RoundLoop:
    """Drives one method from its last checkpoint to its end.

    Args:
        fleet: the clients.
        participation: who is asked.
        checkpoint: where steps are kept.
        listeners: told of every event.
        seed: root seed of the run.
    """

    def __init__(
        self,
        fleet: Fleet,
        participation: Participation,
        checkpoint: Checkpoint,
        listeners: Sequence[Listener],
        seed: int,
    ) -> None:
        self.fleet = fleet
        self.participation = participation
        self.checkpoint = checkpoint
        self.listeners = listeners
        self.seed = seed
        self.totals: dict[str, float] = {}
        self._last: Saved | None = None

    def run(self, name: str, method: Method, initial: ClientModel) -> Any:
        """Runs a method to its end, from its checkpoint where there is one.

        Args:
            name: for events and files.
            method: with its head policy.
            initial: the adapter all clients start from.

        Returns:
            The method's last state; ``totals`` holds bytes and seconds.

        Raises:
            RunFailedError: too few usable updates in a step, or a checkpoint that cannot be written.
        """
        saved = self.checkpoint.load()
        self.checkpoint.clean()
        if saved is None:
            saved = Saved(name, 0, method.init(initial, self._learners(), self.seed), {})
            self.checkpoint.commit(saved)
        self.fleet.restore(saved.private)
        self.totals = dict(saved.totals)
        self._tell(MethodStarted(name, method.last_round, saved.step))
        while not saved.finished:
            saved = self._step(name, method, saved)
        self._last = saved
        return saved.state

    def settle(self) -> None:
        """After the final scores: keeps what clients have handed over since the last step, where they do."""
        assert self._last is not None  # run comes first
        private = self.fleet.private()
        if private is not self._last.private:
            self._last = replace(self._last, private=private)
            self.checkpoint.commit(self._last)

    def _step(self, name: str, method: Method, saved: Saved) -> Saved:
        state = saved.state
        for client, rows in sorted(self.fleet.newcomers().items()):
            state = method.admit(state, client, rows) if rows else state
        tasks = {c: task for c in self._learners() if (task := method.task(state, c)) is not None}
        if not tasks:
            finished = replace(saved, state=state, finished=True)
            self.checkpoint.commit(finished)
            return finished
        # Clients whose warm-up was refused once: whoever is refused twice joins later.
        tried = {client for client, count in state.warmup.refusals.items() if count}
        asked = self.participation.choose(tasks, state.round, self.seed, rounds_for_warmup(method), tried)
        phase = _phase_of([tasks[client] for client in asked])
        self._tell(StepStarted(name, phase, state.round, tuple(asked)))
        started = time.perf_counter()
        seconds = {"train": 0.0, "evaluate": 0.0, "aggregate": 0.0}
        records: dict[ClientId, dict[str, Any]] = {}
        missing: dict[ClientId, str] = {}
        if self.participation.scores_everyone(state.round):
            begun = time.perf_counter()
            others = sorted(self._learners().keys() - set(asked))
            scores = self.fleet.score({client: method.model(state, client) for client in others})
            records = {client: {"score": score} for client, score in scores.items()}
            missing = {c: self.fleet.unscored().get(c, NO_TEST_ROWS) for c in others if c not in scores}
            seconds["evaluate"] += time.perf_counter() - begun
        number = saved.step + 1
        used, refused = self._ask(name, number, {client: tasks[client] for client in asked}, records, seconds)
        counted = dict.fromkeys(COUNTED, 0.0)
        for client in asked:
            self.fleet.count(tasks[client], client, counted)
        head = {"step": number, "method": name, "phase": phase, "round": state.round, "refused": refused}
        try:
            # Second tries of the warm-up alone: the waves before had enough without them.
            if state.round > 0 or not tried.issuperset(asked):
                self.participation.require(name, state.round, len(used), refused)
        except RunFailedError:
            self.checkpoint.note(head)
            raise
        begun = time.perf_counter()
        after = method.aggregate(state, [answer.update for answer in used.values()], absent=frozenset(refused))
        self.fleet.accept(
            number,
            {client: tasks[client] for client in used},
            {client: method.model(after, client) for client in self._learners()},
        )
        seconds["aggregate"] += time.perf_counter() - begun
        self._add({**counted, **{f"seconds_{key}": value for key, value in seconds.items()}})
        trained = max((_adapter_parameters(tasks[client]) for client in asked), default=0)
        self.totals["trainable"] = max(self.totals.get("trainable", 0), trained)
        # A score that came with a refused update is no more to be trusted than the update.
        found = [record["score"] for client, record in records.items() if "score" in record and client not in refused]
        record = {
            **head,
            "mean_score": sum(found) / len(found) if found else None,
            **self._over(len(found), asked, records, refused, missing),
            "clients": {client: records[client] for client in sorted(records)},
            **{key: int(value) for key, value in counted.items()},
            "seconds": {
                **{key: round(value, 3) for key, value in seconds.items()},
                "step": round(time.perf_counter() - started, 3),
            },
        }
        saved = Saved(name, number, after, self.fleet.private(), dict(self.totals))
        self.checkpoint.commit(saved, record)
        if after.allocation is not None and state.allocation is None:
            self._tell(Allocated(name, after.allocation))
        self._tell(StepFinished(name, record))
        return saved

    def _over(
        self,
        count: int,
        asked: Sequence[ClientId],
        records: Mapping[ClientId, Mapping[str, Any]],
        refused: Mapping[ClientId, str],
        missing: Mapping[ClientId, str],
    ) -> dict[str, Any]:
        """Over how many of how many clients a step's mean score is, and why the others are not in it."""
        everyone = self.fleet.rows()
        reasons: dict[ClientId, str] = {}
        if self.participation.score_rounds:
            reasons = {client: "it was not asked in this step" for client in everyone}
            reasons |= {client: NO_TEST_ROWS for client in asked} | {c: f"refused: {r}" for c, r in refused.items()}
            reasons |= {client: NOTHING_TO_LEARN for client, rows in everyone.items() if not rows} | {**missing}
            scored = {client for client, record in records.items() if "score" in record} - refused.keys()
            reasons = {client: reason for client, reason in sorted(reasons.items()) if client not in scored}
        return {"averaged": count, "num_clients": len(everyone), "left_out": reasons}

    def _learners(self) -> dict[ClientId, int]:
        """Clients that can learn, with what they weigh; methods know of no others."""
        return {client: rows for client, rows in sorted(self.fleet.rows().items()) if rows}

    def _ask(
        self,
        name: str,
        number: int,
        tasks: Mapping[ClientId, ClientTask],
        records: dict[ClientId, dict[str, Any]],
        seconds: dict[str, float],
    ) -> tuple[dict[ClientId, Trained], dict[ClientId, str]]:
        """Answers whose updates may be used, and the reasons why others may not."""
        rows = self.fleet.rows()
        used: dict[ClientId, Trained] = {}
        refused: dict[ClientId, str] = {}
        for client, outcome in self.fleet.work(name, number, tasks, self._tell):
            task = tasks[client]
            try:
                if isinstance(outcome, UpdateRefusedError):
                    raise outcome
                seconds["train"] += outcome.train_seconds
                seconds["evaluate"] += outcome.evaluate_seconds
                records[client] = self._record(name, task, client, outcome)
                check_update(task, client, outcome.update, expected_examples=rows[client])
            except UpdateRefusedError as error:
                refused[client] = error.reason
                self._tell(UpdateRefused(name, task.phase, task.round, client, error.reason))
                continue
            used[client] = outcome
        return used, refused

    def _record(self, name: str, task: ClientTask, client: ClientId, answer: Trained) -> dict[str, Any]:
        values = {"loss": answer.update.metrics["loss"]}
        if answer.score is not None:
            values["score"] = answer.score
        self._tell(ClientFinished(name, task.phase, task.round, client, values, answer.train_seconds, answer.reused))
        record: dict[str, Any] = {**values, "steps": answer.steps, "seconds": round(answer.train_seconds, 3)}
        if task.phase == WARMUP and task.round:
            record["phase"] = WARMUP  # came late: not what the others did in this round
        if answer.update.choice is not None:
            record["choice"] = answer.update.choice
        return {**record, "notes": list(answer.notes)} if answer.notes else record

    def _add(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.totals[key] = self.totals.get(key, 0.0) + value

    def _tell(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)


def _phase_of(tasks: Sequence[ClientTask]) -> str:
    """The phase of a step; where clients differ, all phases, with the warm-ups of those that came late at the end."""
    return " + ".join(sorted({task.phase for task in tasks}, key=lambda phase: (phase == WARMUP, phase)))


def _adapter_parameters(task: ClientTask) -> int:
    return sum(task.model.tensors[name].numel() for name in task.trainable - head_names(task.model.tensors))
