"""Events that an engine sends its listeners while it runs. Listeners print, draw and log; engines never do.

``python docs/events_table.py`` writes these classes into ``docs/listeners.md``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlease.core.types import Allocation, ClientId

__all__ = [
    "Allocated",
    "BatchTrained",
    "ClientFinished",
    "Event",
    "Listener",
    "MethodFinished",
    "MethodStarted",
    "RunFinished",
    "RunStarted",
    "StepFinished",
    "StepStarted",
    "UpdateRefused",
]


@dataclass(frozen=True)
class RunStarted:
    """Settings and data are sound, the model is loaded; nothing is trained yet.

    Attributes:
        out: run folder.
        settings: resolved, as ``config.yaml`` has them.
        tasks: client -> the task of its rows.
        train_rows: client -> number of its train rows.
        test_rows: client -> number of its test rows.
        warnings: of the data and of the base model, one sentence each.
        resumed: whether the run was begun before.
        skipped: client -> why it takes no part.
        continues: run folder that this run goes on from; empty for one that begins anew.
    """

    out: Path
    settings: Mapping[str, Any]
    tasks: Mapping[ClientId, str]
    train_rows: Mapping[ClientId, int]
    test_rows: Mapping[ClientId, int]
    warnings: tuple[str, ...]
    resumed: bool
    skipped: Mapping[ClientId, str] = field(default_factory=dict)
    continues: str = ""


@dataclass(frozen=True)
class MethodStarted:
    """A method of the run begins, or goes on.

    Attributes:
        method: its name.
        rounds: number of its last round, where that is known in advance.
        done: steps that are behind it, in a resumed run.
    """

    method: str
    rounds: int
    done: int


@dataclass(frozen=True)
class StepStarted:
    """A wave of the warm-up, or a round, begins.

    Attributes:
        method: its name.
        phase: of the tasks, such as ``warmup``; where clients came late both, as in ``experts + warmup``.
        round: 0 for the warm-up, then 1, 2, ...
        clients: those that are asked to train.
    """

    method: str
    phase: str
    round: int
    clients: tuple[ClientId, ...]


@dataclass(frozen=True)
class BatchTrained:
    """A client of this process has made an optimiser step.

    Attributes:
        method: its name.
        client: who.
        done: steps of its task so far.
        total: steps of its task.
        loss: of the batch.
    """

    method: str
    client: ClientId
    done: int
    total: int
    loss: float


@dataclass(frozen=True)
class ClientFinished:
    """A client's work in a step is over.

    Attributes:
        method: its name.
        phase: of the task.
        round: 0 for the warm-up, then 1, 2, ...
        client: who.
        metrics: ``loss``, the mean over the rows in the last pass, and ``score``, of the received model on the client's
            test rows, where rounds are scored.
        seconds: that it trained.
        reused: whether another method of the run had done the same first step, which was not done again.
    """

    method: str
    phase: str
    round: int
    client: ClientId
    metrics: Mapping[str, float]
    seconds: float
    reused: bool


@dataclass(frozen=True)
class UpdateRefused:
    """A client's update is not used in this step.

    Attributes:
        method: its name.
        phase: of the task.
        round: 0 for the warm-up, then 1, 2, ...
        client: whose.
        reason: one sentence.
    """

    method: str
    phase: str
    round: int
    client: ClientId
    reason: str


@dataclass(frozen=True)
class Allocated:
    """The clients are grouped and the experts allocated.

    Attributes:
        method: its name.
        allocation: who shares which expert, and why, see :class:`fedlease.core.types.Allocation`.
    """

    method: str
    allocation: Allocation


@dataclass(frozen=True)
class StepFinished:
    """A step is complete, and its checkpoint is on disk.

    Attributes:
        method: its name.
        record: the line that was appended to ``rounds.jsonl``.
    """

    method: str
    record: Mapping[str, Any]


@dataclass(frozen=True)
class MethodFinished:
    """A method is at its end, and its results are written.

    Attributes:
        method: its name.
        summary: content of its ``summary.json``.
    """

    method: str
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class RunFinished:
    """Everything is written, the report too.

    Attributes:
        out: run folder.
        summaries: method -> content of its ``summary.json``, the main method first.
    """

    out: Path
    summaries: Mapping[str, Mapping[str, Any]]


Event = (
    RunStarted
    | MethodStarted
    | StepStarted
    | BatchTrained
    | ClientFinished
    | UpdateRefused
    | Allocated
    | StepFinished
    | MethodFinished
    | RunFinished
)
Listener = Callable[[Event], None]
