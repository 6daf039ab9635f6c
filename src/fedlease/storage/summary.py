"""Writes and reads the result of a method: ``summary.json``, and files with scores and samples of single rows.

:class:`Summary` is typed; its ``content`` is the JSON form for reports, comparisons and users.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, RootModel

from fedlease.storage.class_scores import ClassScores
from fedlease.storage.documents import MOST_EXPERTS, ClientName, Content, Count, Expert, Finite, Name
from fedlease.storage.run_files import RunFiles
from fedlease.storage.verdict import Verdict

__all__ = [
    "RESULT",
    "ClientScores",
    "Stopped",
    "Summary",
    "TaskClients",
    "Usage",
    "WorstClient",
    "contents_of",
    "read_result",
    "read_row_scores",
    "read_samples",
    "read_summary",
    "write_result",
    "write_summary",
]

RESULT = (
    "allocation.json",
    "allocation.safetensors",
    "distances.safetensors",
    "predictions.jsonl",
    "row_scores.json",
    "samples.json",
    "summary.json",
)
"""Files that a finished method may have."""


class Usage(Content):
    """Use of experts by one adapted module: the mean weight of each, and the number that a token uses."""

    weights: list[Finite]
    experts_per_token: Finite


class TaskClients(Content):
    """Number of a task's clients, and of those in its mean."""

    averaged: Count
    clients: Count


class WorstClient(Content):
    """The client with the lowest score, which is stored under the metric's name."""

    __pydantic_extra__: dict[str, Finite] = Field(init=False)

    client: ClientName


class ClientScores(Content):
    """One client's entry under ``per_client``; every metric is stored under its own name.

    Attributes:
        task: what its rows are about.
        num_test: number of test rows.
        majority: headline metric of the most frequent train label or answer.
        bare_base: headline metric of the untrained model.
        own_expert: headline metric of the own expert alone.
        choice: index of the chosen candidate.
    """

    __pydantic_extra__: dict[str, Finite] = Field(init=False)

    task: str
    num_test: Count = 0
    majority: Finite | None = None
    bare_base: Finite | None = None
    own_expert: Finite | None = None
    choice: Expert | None = None


class Stopped(Content):
    """The outcome of early stopping.

    Attributes:
        metric: what was compared on validation rows, ``score`` or ``loss``.
        value: its mean over clients in the best round.
        best_round: the round that is kept; 0 is the warm-up.
        rounds: number of rounds that were made.
        planned: number of rounds in the settings.
    """

    metric: str
    value: Finite
    best_round: Count
    rounds: Count
    planned: Count


class Summary(Content):
    """The result of one method; means of further metrics are stored under ``mean_<metric>``.

    A Flower node that writes its client's own model fills in ``method``, ``metric``, ``learnt``, ``per_client``,
    ``classes`` and ``expert_usage``.

    Attributes:
        method: name of the method.
        seed: root seed of the run.
        head: head policy.
        num_clients: number of clients that take part.
        averaged: number of clients in ``mean``.
        left_out: client -> why it is in no mean.
        skipped: client -> why it takes no part in the run.
        num_experts: number of experts; None for a method that allocates none.
        assignment: client -> expert.
        silhouettes: number of experts -> silhouette.
        epsilon: client -> epsilon spent; {} without differential privacy.
        suspects: client -> findings about its updates with their rounds, whether updates were used or not.
        warnings: warnings, one sentence each.
        metric: the headline metric.
        learnt: what clients optimise, by its name in the settings.
        per_client: client -> its scores.
        classes: client -> its scores by label, if rows have labels.
        per_task: task -> mean over its clients.
        task_clients: task -> numbers of its clients.
        mean: plain mean over clients, the headline.
        weighted_mean: mean weighted by test rows.
        worst_client: the client with the lowest score.
        own_expert_mean: mean of the own expert alone.
        majority_mean: mean of the most frequent label or answer.
        bare_base_mean: mean of the untrained model.
        means_over: key of another mean -> number of clients in it.
        expert_usage: client -> module -> mean weight of every expert, and experts used per token.
        passes: number of passes over a client's own rows for each uploaded model.
        early_stopping: the outcome of early stopping; None without it.
        trainable_parameters: largest number of trainable parameters of an adapter in a step.
        bytes_up: bytes from all clients to the server, without heads.
        bytes_down: bytes from the server to all clients, without heads.
        head_bytes_up: bytes of heads from all clients to the server.
        head_bytes_down: bytes of heads from the server to all clients.
        seconds: phase -> seconds.
        verdict: verdict on the whole run, in the main method's summary once its baselines are finished.
    """

    __pydantic_extra__: dict[str, Finite | None] = Field(init=False)

    method: str
    seed: int = 0
    head: str = ""
    num_clients: Count | None = None
    averaged: Count | None = None
    left_out: dict[ClientName, str] = Field(default_factory=dict)
    skipped: dict[Name, str] = Field(default_factory=dict)
    num_experts: Annotated[int, Field(ge=1, le=MOST_EXPERTS)] | None = None
    assignment: dict[ClientName, Expert] = Field(default_factory=dict)
    silhouettes: dict[str, Finite] = Field(default_factory=dict)
    epsilon: dict[ClientName, Finite] = Field(default_factory=dict)
    suspects: dict[ClientName, list[str]] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    metric: str
    learnt: str = ""
    per_client: dict[ClientName, ClientScores]
    classes: dict[ClientName, ClassScores] = Field(default_factory=dict)
    per_task: dict[str, Finite | None] = Field(default_factory=dict)
    task_clients: dict[str, TaskClients] = Field(default_factory=dict)
    mean: Finite | None = None
    weighted_mean: Finite | None = None
    worst_client: WorstClient | None = None
    own_expert_mean: Finite | None = None
    majority_mean: Finite | None = None
    bare_base_mean: Finite | None = None
    means_over: dict[str, Count] = Field(default_factory=dict)
    expert_usage: dict[ClientName, dict[str, Usage]] = Field(default_factory=dict)
    passes: Count = 0
    early_stopping: Stopped | None = None
    trainable_parameters: Count = 0
    bytes_up: Count = 0
    bytes_down: Count = 0
    head_bytes_up: Count = 0
    head_bytes_down: Count = 0
    seconds: dict[str, Finite] = Field(default_factory=dict)
    verdict: Verdict | None = None

    @property
    def worst_score(self) -> float | None:
        """The headline metric of the worst client, if it is on file."""
        return None if self.worst_client is None else (self.worst_client.model_extra or {}).get(self.metric)


class _RowScores(RootModel[dict[ClientName, Annotated[str, Field(pattern=r"^[01]*$")] | list[Finite]]]):
    """Client -> one character per row if rows are right or wrong, otherwise one number per row."""


class _Sample(Content):
    prompt: str
    reference: str
    base: str
    answer: str


class _Samples(RootModel[dict[ClientName, list[_Sample]]]):
    """Client -> some prompts with their answers."""


def contents_of(summaries: Mapping[str, Summary]) -> dict[str, dict[str, Any]]:
    """Method -> content of its ``summary.json``."""
    return {method: summary.content for method, summary in summaries.items()}


def write_result(
    files: RunFiles,
    summary: Summary,
    row_scores: Mapping[str, str | Sequence[float]],
    samples: Mapping[str, Sequence[Mapping[str, str]]],
) -> None:
    """Writes a method's result; ``summary.json`` comes last, since a method with this file is finished.

    Args:
        files: the method's files.
        summary: the result.
        row_scores: client -> headline metric per test row, for paired comparisons.
        samples: client -> some rows with generated answers; empty for other tasks.

    Raises:
        OSError: a file cannot be written.
    """
    files.write_json("row_scores.json", row_scores)
    if samples:
        files.write_json("samples.json", samples)
    write_summary(files, summary)


def write_summary(files: RunFiles, summary: Summary) -> None:
    """Writes only ``summary.json``, atomically.

    Raises:
        OSError: it cannot be written.
    """
    files.write_json("summary.json", summary.content)


def read_summary(files: RunFiles) -> Summary | None:
    """Reads the result of a method; None if it is not finished.

    Raises:
        RunFolderError: it is damaged.
    """
    return files.read_model("summary.json", Summary) if files.has("summary.json") else None


def read_result(files: RunFiles) -> Summary | None:
    """Reads the result of a method; None if it is not finished, or a file of it is missing.

    Raises:
        RunFolderError: it is damaged.
    """
    covered = set(files.names())
    if any(name in covered and not files.has(name) for name in RESULT):
        return None
    return read_summary(files)


def read_row_scores(files: RunFiles) -> dict[str, str | list[float]]:
    """Client -> headline metric per test row, in the form of :func:`write_result`.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    return files.read_model("row_scores.json", _RowScores).root


def read_samples(files: RunFiles) -> dict[str, list[Any]]:
    """Client -> its samples; empty for a method that has none.

    Raises:
        RunFolderError: the file is damaged.
    """
    return files.read_model("samples.json", _Samples).model_dump() if files.has("samples.json") else {}
