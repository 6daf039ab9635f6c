"""One step of a method, a round or a wave of the warm-up, and its record."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedlease.client.messages import Trained
from fedlease.core.types import ClientId, ClientTask
from fedlease.data.federation import NO_TEST_ROWS, ClientCard, why_nothing
from fedlease.methods.base import State
from fedlease.methods.warmup import WARMUP

__all__ = ["Step"]


@dataclass
class Step:
    """A step in progress.

    Attributes:
        number: within the method, starting at 1.
        state: of the method before the step, including newcomers.
        tasks: client that is asked to train -> its task.
        tried: clients whose warm-up was refused before.
        records: client -> its entry in ``rounds.jsonl``.
        used: client -> reply whose update is used.
        refused: client -> the reason why its update is not used.
        suspects: client -> suspicious properties of its update, used or not.
        late: client -> the reason why the server did not wait for its update.
        unscored: client that was only asked for a score -> the reason why it has none.
        seconds: kind of work -> seconds spent.
        valid: scores on validation rows of the models after the step; None without early stopping.
    """

    number: int
    state: State
    tasks: Mapping[ClientId, ClientTask]
    tried: frozenset[ClientId]
    records: dict[ClientId, dict[str, Any]] = field(default_factory=dict)
    used: dict[ClientId, Trained] = field(default_factory=dict)
    refused: dict[ClientId, str] = field(default_factory=dict)
    suspects: dict[ClientId, list[str]] = field(default_factory=dict)
    late: dict[ClientId, str] = field(default_factory=dict)
    unscored: dict[ClientId, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "evaluate": 0.0, "aggregate": 0.0})
    valid: dict[str, Any] | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def phase(self) -> str:
        """The phase of the tasks; if there are several, all of them, with the warm-ups of late clients at the end."""
        phases = {task.phase for task in self.tasks.values()}
        return " + ".join(sorted(phases, key=lambda phase: (phase == WARMUP, phase)))

    def leave(self, why: str) -> None:
        """Marks all clients as late that have neither an update that is used nor a refusal."""
        self.late = {client: why for client in self.tasks if client not in self.used and client not in self.refused}

    def line(self, method: str) -> dict[str, Any]:
        """The first fields of the step's line in ``rounds.jsonl``."""
        return {
            "step": self.number,
            "method": method,
            "phase": self.phase,
            "round": self.state.round,
            "refused": self.refused,
            **({"suspects": dict(sorted(self.suspects.items()))} if self.suspects else {}),
        }

    @staticmethod
    def entry(task: ClientTask, reply: Trained) -> dict[str, Any]:
        """A client's entry in ``rounds.jsonl``."""
        scored = {} if reply.score is None else {"score": reply.score}
        record: dict[str, Any] = {**reply.update.metrics, **scored}
        record |= {} if reply.epsilon is None else {"epsilon": round(reply.epsilon, 4)}
        record |= {"steps": reply.steps, "seconds": round(reply.train_seconds, 3)}
        record |= {"metrics": dict(reply.metrics)} if reply.metrics else {}
        if task.phase == WARMUP and task.round:
            record["phase"] = WARMUP  # of a late client, while the others are in a round
        record |= {} if reply.update.choice is None else {"choice": reply.update.choice}
        return {**record, "notes": list(reply.notes)} if reply.notes else record

    def scored(self, cards: Mapping[ClientId, ClientCard], *, score_rounds: bool) -> dict[str, Any]:
        """The mean score, the number of clients in it, and the reasons for leaving out the others."""
        # A score that came with a refused update cannot be trusted either.
        scores = {c: entry["score"] for c, entry in self.records.items() if "score" in entry and c not in self.refused}
        reasons: dict[ClientId, str] = {}
        if score_rounds and any(task.stages for task in self.tasks.values()):
            reasons = dict.fromkeys(cards, "it was not asked in this step")
            reasons |= dict.fromkeys(self.tasks, NO_TEST_ROWS)
            reasons |= {client: f"refused: {reason}" for client, reason in self.refused.items()}
            reasons |= {client: why for client, card in cards.items() if (why := why_nothing(card))}
            reasons |= self.unscored
        reasons |= self.late
        return {
            "mean_score": sum(scores.values()) / len(scores) if scores else None,
            "averaged": len(scores),
            "num_clients": len(cards),
            "left_out": {client: reason for client, reason in sorted(reasons.items()) if client not in scores},
            **({} if self.valid is None else {"valid": self.valid}),
        }
