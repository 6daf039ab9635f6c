"""Events that a run sends to its listeners, which alone print, draw and log.

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
    """Settings and data have been checked and the model is loaded; training has not started.

    Attributes:
        out: run folder.
        settings: resolved, as in ``config.yaml``.
        tasks: client -> the task of its rows.
        train_rows: client -> number of its train rows.
        test_rows: client -> number of its test rows.
        warnings: about the data and the base model, one sentence each.
        resumed: whether the run was started before.
        skipped: client -> the reason why it takes no part.
        continues: folder of the run that this run continues; empty for a new run.
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
    """A method of the run starts, or continues in a resumed run.

    Attributes:
        method: its name.
        rounds: number of its last round.
        done: steps finished before, in a resumed run.
    """

    method: str
    rounds: int
    done: int


@dataclass(frozen=True)
class StepStarted:
    """A wave of the warm-up, or a round, starts.

    Attributes:
        method: its name.
        phase: of the tasks, such as ``warmup``; with late clients, of both kinds of tasks, as ``experts + warmup``.
        round: 0 for the warm-up, then 1, 2, ...
        clients: clients that are asked to train.
    """

    method: str
    phase: str
    round: int
    clients: tuple[ClientId, ...]


@dataclass(frozen=True)
class BatchTrained:
    """A client in this process has made an optimiser step.

    Attributes:
        method: its name.
        client: id of the client.
        done: finished steps of its task.
        total: all steps of its task.
        loss: mean loss of the batch.
    """

    method: str
    client: ClientId
    done: int
    total: int
    loss: float


@dataclass(frozen=True)
class ClientFinished:
    """A client has finished its work in a step.

    Attributes:
        method: its name.
        phase: of the task.
        round: 0 for the warm-up, then 1, 2, ...
        client: id of the client.
        metrics: ``loss``, the mean over the rows in the last pass; and, if rounds are scored, ``score``, of the
            received model on the client's test rows.
        seconds: time spent on training.
        reused: whether the result is that of the same first step of another method, which was not repeated.
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
        client: id of the client.
        reason: one sentence.
    """

    method: str
    phase: str
    round: int
    client: ClientId
    reason: str


@dataclass(frozen=True)
class Allocated:
    """Experts are allocated to groups of clients.

    Attributes:
        method: its name.
        allocation: assignment of clients to experts, with its evidence, see :class:`fedlease.core.types.Allocation`.
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
    """A method has ended, and its results are written.

    Attributes:
        method: its name.
        summary: content of its ``summary.json``.
    """

    method: str
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class RunFinished:
    """The run has ended, and everything is written, including the report.

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
