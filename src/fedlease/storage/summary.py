"""The result of a method, written and read here: ``summary.json``, and the scores and samples row by row beside it.

A :class:`Summary` is typed; its ``content`` is the JSON form, which reports, comparisons and users read.
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
        num_test: test rows.
        majority: headline metric of the most frequent train label or answer.
        bare_base: headline metric of the untrained model.
        own_expert: headline metric of the own expert alone.
        choice: candidate taken.
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
        rounds: that were made.
        planned: that would have been made.
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
        method: name.
        seed: root seed of the run.
        head: head policy.
        num_clients: clients that take part.
        averaged: how many of them are in ``mean``.
        left_out: client -> why it is in no mean.
        skipped: client -> why it takes no part in the run.
        num_experts: None for a method that allocates none.
        assignment: client -> expert.
        silhouettes: number of experts -> score.
        epsilon: client -> what it has spent under differential privacy; {} without.
        suspects: client -> what was odd about its updates, used or not, with the round.
        warnings: plain sentences.
        metric: the headline.
        learnt: what clients optimise, by its name in the settings.
        per_client: client -> its scores.
        classes: client -> its scores by label, where rows have labels.
        per_task: task -> mean over its clients.
        task_clients: task -> how many clients it has.
        mean: plain mean over clients, the headline.
        weighted_mean: weighted by test rows.
        worst_client: the lowest score.
        own_expert_mean: of the own expert alone.
        majority_mean: of the most frequent label or answer.
        bare_base_mean: of the untrained model.
        means_over: key of another mean -> how many clients it is over.
        expert_usage: client -> module -> mean weight of every expert, and experts used per token.
        passes: over a client's own rows for each uploaded model.
        early_stopping: which round was kept; None without early stopping.
        trainable_parameters: of the adapter, at most, in a step.
        bytes_up: from all clients to the server, heads apart.
        bytes_down: from the server to all clients.
        head_bytes_up: likewise, of heads.
        head_bytes_down: likewise, of heads.
        seconds: phase -> seconds.
        verdict: what came of the whole run; of the main method, once its baselines are finished.
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
    """One character per row if rows are right or wrong, else one number."""


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
    """Writes a method's result; ``summary.json`` comes last: a method with it is finished.

    Args:
        files: of the method.
        summary: the result.
        row_scores: client -> headline metric per test row, by which comparisons are paired.
        samples: client -> some rows with what was written; empty where nothing is written.

    Raises:
        OSError: it cannot be written.
    """
    files.write_json("row_scores.json", row_scores)
    if samples:
        files.write_json("samples.json", samples)
    write_summary(files, summary)


def write_summary(files: RunFiles, summary: Summary) -> None:
    """Writes ``summary.json`` alone, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    files.write_json("summary.json", summary.content)


def read_summary(files: RunFiles) -> Summary | None:
    """The result of a method; None while it is not finished.

    Raises:
        RunFolderError: damaged.
    """
    return files.read_model("summary.json", Summary) if files.has("summary.json") else None


def read_result(files: RunFiles) -> Summary | None:
    """The result of a method of which no file is missing, or None.

    Raises:
        RunFolderError: damaged.
    """
    covered = set(files.names())
    if any(name in covered and not files.has(name) for name in RESULT):
        return None
    return read_summary(files)


def read_row_scores(files: RunFiles) -> dict[str, str | list[float]]:
    """Client -> headline metric per test row, as :func:`write_result` takes it.

    Raises:
        RunFolderError: missing or damaged.
    """
    return files.read_model("row_scores.json", _RowScores).root


def read_samples(files: RunFiles) -> dict[str, list[Any]]:
    """Client -> its samples; empty for a method that has none.

    Raises:
        RunFolderError: damaged.
    """
    return files.read_model("samples.json", _Samples).model_dump() if files.has("samples.json") else {}
