"""What the JSON files of a run folder must hold for what is read of them; they may hold more."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, RootModel, field_validator, model_validator

from fedlease.storage.documents import MOST_EXPERTS, ClientName, Content, Count, Expert, Finite, Name

__all__ = [
    "AllocationContent",
    "ClientsContent",
    "EnvironmentContent",
    "Line",
    "NewcomerContent",
]


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold NUL")
    return text


PathText = Annotated[str, AfterValidator(_no_nul)]


class _Git(Content):
    commit: str
    clean: bool


class EnvironmentContent(Content):
    """``environment.json``."""

    format: int
    fedlease: str | None = None
    started: str | None = None
    python: str | None = None
    platform: str | None = None
    cores: int | None = None
    threads: int | None = None
    device: str | None = None
    packages: dict[str, str | None] = Field(default_factory=dict)
    git: _Git | None = None
    data_fingerprint: str | None = None
    data_warnings: list[str] = Field(default_factory=list)
    model_revision: str | None = None
    run: str | None = None
    base_files: dict[str, str] | None = None
    skipped_clients: dict[Name, str] | None = None


class _Client(Content):
    task: str
    labels: list[str]
    pairs: bool | None = None
    train_rows: Count
    valid_rows: Count = 0
    test_rows: Count
    fingerprint: str | None = None


class ClientsContent(RootModel[dict[ClientName, _Client]]):
    """``clients.json``."""


class AllocationContent(Content):
    """``allocation.json``."""

    clients: list[ClientName]
    num_experts: Annotated[int, Field(ge=1, le=MOST_EXPERTS)]
    assignment: dict[ClientName, Expert]
    silhouettes: dict[Annotated[str, Field(pattern=r"^[0-9]{1,6}$")], Finite]
    distances: list[list[Finite]]
    warnings: list[str] = Field(default_factory=list)

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


class NewcomerContent(Content):
    """``onboarded/<client>/onboarding.json``."""

    client: ClientName
    task: str = "default"
    labels: list[str] = Field(default_factory=list)
    pairs: bool | None = None
    data: PathText | None = None
    data_fingerprint: str | None = None
    expert: Expert
    distances: list[Finite] = Field(default_factory=list)
    margin: float | None = None
    unlike: bool = False
    scores: dict[str, Finite | None] = Field(default_factory=dict)


class _LineClient(Content):
    score: Finite | None = None


class Line(Content):
    """One line of ``rounds.jsonl``; ``clients`` is missing where the step failed."""

    step: Count
    phase: str
    round: Count
    refused: dict[ClientName, str] = Field(default_factory=dict)
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
    def scores(self) -> dict[str, float]:
        """Client -> score in [0, 1] of the model that it received in this step."""
        return {client: row.score for client, row in (self.clients or {}).items() if row.score is not None}

    @property
    def failed(self) -> bool:
        """Whether the step had too few usable updates, so that the run stopped."""
        return self.clients is None
