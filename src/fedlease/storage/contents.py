"""What the JSON files of a run folder must hold for what is read of them; they may hold more."""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, field_validator, model_validator

from fedlease.data.reading.examples import client_id_fault
from fedlease.tasks.metric_words import is_further_mean

__all__ = [
    "AllocationContent",
    "ClientsContent",
    "EnvironmentContent",
    "Line",
    "NewcomerContent",
    "RowScoresContent",
    "SamplesContent",
    "SummaryContent",
]

MOST_EXPERTS = 10_000
MOST_NAME = 2_000


def _client(name: str) -> str:
    if fault := client_id_fault(name):
        raise ValueError(f"a client's id {fault}")
    return name


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold NUL")
    return text


ClientName = Annotated[str, AfterValidator(_client)]
Name = Annotated[str, Field(max_length=MOST_NAME)]
"""Of who takes no part: a node that is turned away may not have said an id. It is shown, and names no file."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Expert = Annotated[int, Field(ge=0, lt=MOST_EXPERTS)]
PathText = Annotated[str, AfterValidator(_no_nul)]


class _Content(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Git(_Content):
    commit: str
    clean: bool


class EnvironmentContent(_Content):
    """``environment.json``."""

    format: int
    fedlease: str | None = None
    started: str | None = None
    python: str | None = None
    platform: str | None = None
    cores: int | None = None
    threads: int | None = None
    device: str | None = None
    packages: dict[str, str | None] = {}
    git: _Git | None = None
    data_fingerprint: str | None = None
    data_warnings: list[str] = []
    model_revision: str | None = None
    run: str | None = None
    base_files: dict[str, str] | None = None
    skipped_clients: dict[Name, str] | None = None


class _Client(_Content):
    task: str
    labels: list[str]
    pairs: bool | None = None
    train_rows: Count
    valid_rows: Count = 0
    test_rows: Count
    fingerprint: str | None = None


class ClientsContent(RootModel[dict[ClientName, _Client]]):
    """``clients.json``."""


class AllocationContent(_Content):
    """``allocation.json``."""

    clients: list[ClientName]
    num_experts: Annotated[int, Field(ge=1, le=MOST_EXPERTS)]
    assignment: dict[ClientName, Expert]
    silhouettes: dict[Annotated[str, Field(pattern=r"^[0-9]{1,6}$")], Finite]
    distances: list[list[Finite]]
    warnings: list[str] = []

    @model_validator(mode="after")
    def _fits(self) -> "AllocationContent":
        count = len(self.clients)
        if len(set(self.clients)) < count:
            raise ValueError("a client is named twice")
        if len(self.distances) != count or any(len(row) != count for row in self.distances):
            raise ValueError(f"distances must have {count} rows and columns, one per client")
        if missing := set(self.clients) - self.assignment.keys():
            raise ValueError(f"no expert is assigned to {min(missing)!r}")
        if any(expert >= self.num_experts for expert in self.assignment.values()):
            raise ValueError(f"an assigned expert is not below num_experts = {self.num_experts}")
        return self


class _Row(_Content):
    task: str
    num_test: Count = 0
    majority: Finite | None = None
    bare_base: Finite | None = None
    own_expert: Finite | None = None
    choice: Expert | None = None


class _Usage(_Content):
    weights: list[Finite]
    experts_per_token: Finite


class _TaskClients(_Content):
    averaged: Count
    clients: Count


class SummaryContent(_Content):
    """``summary.json``; a node's own model has a shorter one."""

    method: str
    metric: str
    per_client: dict[ClientName, _Row]
    per_task: dict[str, Finite | None] = {}
    passes: Count = 0
    num_clients: Count | None = None
    averaged: Count | None = None
    num_experts: Annotated[int, Field(ge=1, le=MOST_EXPERTS)] | None = None
    left_out: dict[ClientName, str] = {}
    skipped: dict[Name, str] = {}
    means_over: dict[str, Count] = {}
    task_clients: dict[str, _TaskClients] = {}
    trainable_parameters: Count = 0
    assignment: dict[ClientName, Expert] = {}
    expert_usage: dict[ClientName, dict[str, _Usage]] = {}
    warnings: list[str] = []
    seconds: dict[str, Finite] = {}
    worst_client: dict[str, Any] | None = None
    mean: Finite | None = None
    weighted_mean: Finite | None = None
    majority_mean: Finite | None = None
    bare_base_mean: Finite | None = None
    own_expert_mean: Finite | None = None
    bytes_up: Count = 0
    bytes_down: Count = 0
    head_bytes_up: Count = 0
    head_bytes_down: Count = 0

    @model_validator(mode="after")
    def _scored(self) -> "SummaryContent":
        if self.worst_client is not None and not isinstance(self.worst_client.get("client"), str):
            raise ValueError("worst_client must name a client")
        scores = {f"the {self.metric} of the worst client": (self.worst_client or {}).get(self.metric)}
        for client, row in self.per_client.items():
            scores[f"the {self.metric} of client {client!r}"] = (row.model_extra or {}).get(self.metric)
        scores |= {key: value for key, value in (self.model_extra or {}).items() if is_further_mean(key, value)}
        for what, score in scores.items():
            if score is not None and not (type(score) in (int, float) and math.isfinite(score)):
                raise ValueError(f"{what} must be a finite number")
        return self


class RowScoresContent(RootModel[dict[ClientName, Annotated[str, Field(pattern=r"^[01]*$")] | list[Finite]]]):
    """``row_scores.json``: one character a row where it is right or wrong, else one number."""


class _Sample(_Content):
    prompt: str
    reference: str
    base: str
    answer: str


class SamplesContent(RootModel[dict[ClientName, list[_Sample]]]):
    """``samples.json``."""


class NewcomerContent(_Content):
    """``onboarded/<client>/onboarding.json``."""

    client: ClientName
    task: str = "default"
    labels: list[str] = []
    pairs: bool | None = None
    data: PathText | None = None
    data_fingerprint: str | None = None
    expert: Expert
    distances: list[Finite] = []
    margin: float | None = None
    unlike: bool = False
    scores: dict[str, Finite | None] = {}


class _LineClient(_Content):
    score: Finite | None = None


class Line(_Content):
    """One line of ``rounds.jsonl``; ``clients`` is missing where the step failed."""

    step: Count
    phase: str
    round: Count
    refused: dict[ClientName, str] = {}
    clients: dict[ClientName, _LineClient] | None = None
    mean_score: Finite | None = None
    seconds: dict[str, Finite] = {}
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
    def scores(self) -> dict[str, float]:
        """Client -> score in [0, 1] of the model that it received in this step."""
        return {client: row.score for client, row in (self.clients or {}).items() if row.score is not None}

    @property
    def failed(self) -> bool:
        """Whether the step had too few usable updates, so that the run stopped."""
        return self.clients is None
