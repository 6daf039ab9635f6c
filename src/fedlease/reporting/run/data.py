"""The data of a report: a run, finished or not, as frozen values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fedlease.config.settings import Settings
from fedlease.core.types import Allocation
from fedlease.data.federation import NOTHING_TO_LEARN, ONE_VALUE, ClientCard
from fedlease.reporting.means import averaged, finals
from fedlease.storage.environment import Environment
from fedlease.storage.newcomers import Newcomer
from fedlease.storage.rounds import Line
from fedlease.storage.summary import Summary, Usage
from fedlease.tasks.base import Task
from fedlease.tasks.metric_words import of_metric
from fedlease.tasks.metrics import MetricWords
from fedlease.tasks.registry import make_task

__all__ = ["ALONE", "MethodRun", "Point", "RunData", "Sample", "mean"]

ALONE = "local"
"""The method that shares nothing, to which others are compared to see what clients gain from a federation."""


@dataclass(frozen=True)
class Point:
    """Scores after a number of passes over each client's rows, of those clients that were scored."""

    passes: int
    scores: Mapping[str, float]

    @property
    def mean(self) -> float | None:
        """Plain mean over the clients that were scored."""
        return mean(self.scores.values())


@dataclass(frozen=True)
class MethodRun:
    """One method of a run.

    Attributes:
        name: name of the method.
        steps: steps finished so far.
        summary: summary of the method; None if it is not finished.
        points: score curve by passes; the final scores are last if the method is finished.
        row_scores: client -> score of every test row in order; {} if not finished, or not on file.
    """

    name: str
    steps: tuple[Line, ...]
    summary: Summary | None
    points: tuple[Point, ...]
    row_scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def finals(self) -> dict[str, float]:
        """Client -> final score; {} if the method is not finished."""
        return {} if self.summary is None else finals(self.summary)

    @property
    def left_out(self) -> dict[str, str]:
        """Client -> reason why it is in no mean."""
        return {} if self.summary is None else self.summary.left_out

    @property
    def warnings(self) -> list[str]:
        """The warnings of its summary, each once."""
        return [] if self.summary is None else list(dict.fromkeys(self.summary.warnings))

    @property
    def averaged(self) -> dict[str, float]:
        """Client -> final score, of the clients in the means."""
        return averaged(self.summary) if self.summary is not None else {}

    @property
    def mean(self) -> float | None:
        """Plain mean of the final scores, without clients that are left out."""
        return mean(self.averaged.values())

    def total(self, key: str) -> int:
        """Sum over the steps of the byte count ``key``."""
        return sum(getattr(step, key) for step in self.steps)

    def spent(self, phase: str) -> float:
        """Sum over the steps of the seconds of ``train``, ``evaluate`` or ``aggregate``."""
        return sum(step.seconds.get(phase, 0.0) for step in self.steps)


@dataclass(frozen=True)
class Sample:
    """A test row with the answers of models.

    Attributes:
        prompt: the prompt, or the last message of a conversation.
        reference: the response in the data.
        base: answer of the untrained model.
        answers: method -> answer of its model, of methods that have a sample of this row.
    """

    prompt: str
    reference: str
    base: str
    answers: Mapping[str, str]


@dataclass(frozen=True)
class RunData:
    """A run folder.

    Attributes:
        name: name of the folder, without its parents.
        settings: resolved settings.
        environment: versions, data and identity with which the run began.
        clients: id -> card, sorted by id.
        methods: the main method, followed by the baselines that have begun.
        missing: methods that have not begun.
        grouping: allocation of the main method; None if there is none, or none yet.
        newcomers: clients that were placed after the run.
        samples: client -> some of its test rows with answers; {} without samples.
    """

    name: str
    settings: Settings
    environment: Environment
    clients: Mapping[str, ClientCard]
    methods: tuple[MethodRun, ...]
    missing: tuple[str, ...]
    grouping: Allocation | None
    newcomers: Mapping[str, Newcomer]
    samples: Mapping[str, tuple[Sample, ...]]

    @property
    def main(self) -> MethodRun:
        """The main method."""
        return self.methods[0]

    @property
    def alone(self) -> MethodRun | None:
        """The finished baseline :data:`ALONE`; None if there is none, or if it is the main method."""
        done = (method for method in self.methods if method.name == ALONE and method.summary is not None)
        return None if self.main.name == ALONE else next(done, None)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of the clients, sorted."""
        return tuple(sorted({client.task for client in self.clients.values()}))

    @property
    def finished(self) -> bool:
        """Whether every method has its final scores."""
        return not self.missing and all(method.summary is not None for method in self.methods)

    @cached_property
    def learnt(self) -> Task:
        """The task that clients optimise."""
        return make_task(self.settings)

    @property
    def metric(self) -> str:
        """Key of the headline metric, also before the first method has finished."""
        known = (method.summary.metric for method in self.methods if method.summary is not None)
        return next(known, self.learnt.metric)

    @property
    def words(self) -> MetricWords:
        """The words for the metric and for related values."""
        return of_metric(self.metric, self.settings.task)

    @property
    def late(self) -> tuple[str, ...]:
        """Clients that joined after the others were allocated."""
        if self.grouping is None:
            return ()
        # A client that cannot learn is never grouped, so it is not late.
        never = {client for client, reason in self.main.left_out.items() if reason in (NOTHING_TO_LEARN, ONE_VALUE)}
        known = {*self.grouping.clients, *never}
        return tuple(client for client in self.clients if client not in known)

    def experts(self) -> dict[str, int]:
        """Client -> the expert that it trains, of the clients for which that is known."""
        if self.grouping is None:
            return {}
        return {**self.grouping.assignment, **(self.main.summary.assignment if self.main.summary else {})}

    def usage(self) -> Mapping[str, Mapping[str, Usage]]:
        """Client -> module -> mean weights and experts per token; {} without a router."""
        return self.main.summary.expert_usage if self.main.summary else {}

    def task_means(self, scores: Mapping[str, float]) -> dict[str, float | None]:
        """Task -> plain mean of the scores of its clients."""
        return {
            task: mean(scores[client] for client in scores if client in self.clients and self.task(client) == task)
            for task in self.tasks
        }

    def task(self, client: str) -> str:
        """The task of a client."""
        return self.clients[client].task


def mean(values: Iterable[float]) -> float | None:
    """Plain mean; None if there are no numbers."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else None
