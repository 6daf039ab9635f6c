"""What an engine tells its listeners while it runs. Listeners print, draw and log; engines never do."""

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
    """Settings and data are sound, the model is loaded; ``continues`` names the run that this one goes on from."""

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
    """``rounds`` counts the method's steps where known in advance, ``done`` those already behind it (resume)."""

    method: str
    rounds: int
    done: int


@dataclass(frozen=True)
class StepStarted:
    """A warm-up wave (round 0) or a round begins with these clients.

    ``phase`` is theirs; where clients came late it says so, as in ``experts + warmup``.
    """

    method: str
    phase: str
    round: int
    clients: tuple[ClientId, ...]


@dataclass(frozen=True)
class BatchTrained:
    """``done`` of ``total`` optimiser steps of one client's local task."""

    method: str
    client: ClientId
    done: int
    total: int
    loss: float


@dataclass(frozen=True)
class ClientFinished:
    """One client's work in a step is over; ``metrics`` holds ``loss`` and, where scored, ``score``."""

    method: str
    phase: str
    round: int
    client: ClientId
    metrics: Mapping[str, float]
    seconds: float
    reused: bool


@dataclass(frozen=True)
class UpdateRefused:
    """A client's update is not used this round."""

    method: str
    phase: str
    round: int
    client: ClientId
    reason: str


@dataclass(frozen=True)
class Allocated:
    """The experts are allocated."""

    method: str
    allocation: Allocation


@dataclass(frozen=True)
class StepFinished:
    """``record`` is the line just appended to ``rounds.jsonl``; the checkpoint is on disk."""

    method: str
    record: Mapping[str, Any]


@dataclass(frozen=True)
class MethodFinished:
    """``summary`` is the content of the method's ``summary.json``."""

    method: str
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class RunFinished:
    """Everything is written."""

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
