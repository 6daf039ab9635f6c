"""``rounds.jsonl``: one line per step of a method."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from fedlease.core.names import ClientId
from fedlease.errors import RunFolderError
from fedlease.storage.checkpoint import Checkpoint
from fedlease.storage.documents import ClientName, Content, Count, Finite, checked, parse_json

__all__ = ["Line", "read_rounds", "spent_by", "suspects_of"]


_NUMBER = re.compile(r"[\d.]+(e[+-]?\d+)?")


class _LineClient(Content):
    score: Finite | None = None
    metrics: dict[str, Finite] = Field(default_factory=dict)
    epsilon: Finite | None = None


class Line(Content):
    """One step; ``clients`` is missing if the step failed.

    Attributes:
        step: number of the step, from 1.
        phase: phase of the method.
        round: number of the round; 0 during the warm-up.
        refused: client -> why its update was not used.
        suspects: client -> findings about its update, whether it was used or not.
        clients: client -> what it reported, such as score and further metrics of the received model.
        mean_score: mean score over the clients that were scored.
        seconds: activity -> seconds.
        bytes_up: bytes from clients to the server, without heads.
        bytes_down: bytes from the server to clients, without heads.
        head_bytes_up: bytes of heads from clients to the server.
        head_bytes_down: bytes of heads from the server to clients.
    """

    step: Count
    phase: str
    round: Count
    refused: dict[ClientName, str] = Field(default_factory=dict)
    suspects: dict[ClientName, list[str]] = Field(default_factory=dict)
    clients: dict[ClientName, _LineClient] | None = None
    mean_score: Finite | None = None
    seconds: dict[str, Finite] = Field(default_factory=dict)
    bytes_up: Count = 0
    bytes_down: Count = 0
    head_bytes_up: Count = 0
    head_bytes_down: Count = 0

    @field_validator("clients", mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("must be an object")
        return value

    @property
    def scores(self) -> dict[ClientId, float]:
        """Client -> score in [0, 1] of the model that it received in this step."""
        return {client: row.score for client, row in (self.clients or {}).items() if row.score is not None}

    @property
    def failed(self) -> bool:
        """Whether the step had too few usable updates, so that the run stopped."""
        return self.clients is None


def read_rounds(folder: Path) -> list[Line]:
    """Reads the steps of a method, without an incomplete last line.

    Args:
        folder: the method's folder.

    Raises:
        RunFolderError: lines are damaged, or not as the run wrote them.
    """
    checkpoint = Checkpoint(folder)
    lines = checkpoint.lines()
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{checkpoint.rounds}, line {number}"
        try:
            step: Line = checked(parse_json(line, where), Line, where)
        except RunFolderError:
            if number == len(lines):
                break  # no newline yet
            raise
        found.append(step)
    return found


def spent_by(lines: Iterable[Line]) -> dict[ClientId, float]:
    """Client -> epsilon that it has spent; {} without differential privacy."""
    rows = [row for line in lines for row in (line.clients or {}).items()]
    found = {client: row.epsilon for client, row in rows if row.epsilon is not None}
    return dict(sorted(found.items()))


def suspects_of(lines: Iterable[Line]) -> dict[ClientId, list[str]]:
    """Client -> findings about its updates, each once, with its first round."""
    found: dict[ClientId, dict[str, str]] = {}
    for line in lines:
        for client, odd in line.suspects.items():
            for finding in odd:
                # Findings that differ only in numbers are the same.
                kind = _NUMBER.sub("#", finding)
                found.setdefault(client, {}).setdefault(kind, f"round {line.round}: {finding}")
    return {client: [*found[client].values()] for client in sorted(found)}
