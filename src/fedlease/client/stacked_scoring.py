"""Scoring of several clients in one pass: their rows share batches, each with its client's adapter and head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from fedlease.client.stacked_model import StackedModel, slots_of, to_slots
from fedlease.core.types import AdapterSpec, ClientId, Tensors
from fedlease.tasks.base import Measured, StackingTask
from fedlease.tasks.encoded import Encoded
from fedlease.tasks.stacking import mean_losses

__all__ = ["Scoring", "losses_stacked", "score_stacked"]

R = TypeVar("R")


@dataclass(frozen=True)
class Scoring:
    """A job that scores a client's model on at least one row.

    Attributes:
        client: id of the client.
        spec: of the adapter.
        tensors: of adapter and head, including private tensors.
        rows: tokenised rows.
        num_labels: number of the client's labels.
        candidate: number of the model among several of the client.
        alone: whether only the own expert is scored.
    """

    client: ClientId
    spec: AdapterSpec
    tensors: Tensors
    rows: Encoded
    num_labels: int
    candidate: int = 0
    alone: bool = False

    @property
    def only(self) -> tuple[int, ...] | None:
        """The slots of the experts that are summed instead of using the mixer; None uses the mixer."""
        return (slots_of(self.spec).index(self.spec.own),) if self.alone else None

    @property
    def key(self) -> tuple[ClientId, int]:
        """An identifier among the jobs of a step."""
        return self.client, self.candidate


def score_stacked(
    model: StackedModel, task: StackingTask, jobs: Sequence[Scoring], threads: int
) -> dict[tuple[ClientId, int], Measured]:
    """Scores clients whose adapters have one layout.

    Args:
        model: for several clients.
        task: computes the scores.
        jobs: at least one.
        threads: number of CPU threads.

    Returns:
        Key -> scores as of :meth:`fedlease.tasks.base.Task.measure`.

    Raises:
        RowsNotFirstError: the architecture cannot compute clients together.
    """
    return _by_key(model, jobs, lambda rows: task.measure_stacked(model, rows, threads))


def losses_stacked(
    model: StackedModel, task: StackingTask, jobs: Sequence[Scoring], threads: int
) -> dict[tuple[ClientId, int], float]:
    """Key -> mean loss as of :meth:`fedlease.tasks.base.Task.mean_loss`; arguments as for :func:`score_stacked`."""
    return _by_key(model, jobs, partial(mean_losses, task, model, threads=threads))


def _by_key(
    model: StackedModel, jobs: Sequence[Scoring], work: Callable[[Sequence[Encoded]], Sequence[R]]
) -> dict[tuple[ClientId, int], R]:
    jobs = sorted(jobs, key=lambda job: (-len(job.rows), job.key))
    slots = [to_slots(job.tensors.keys(), job.spec) for job in jobs]
    tensors = [{names[name]: job.tensors[name] for name in names} for names, job in zip(slots, jobs, strict=True)]
    with model.using(jobs[0].rows):
        model.load(jobs[0].spec, tensors, [job.num_labels for job in jobs], only=jobs[0].only)
        found = work([job.rows for job in jobs])
    return {job.key: one for job, one in zip(jobs, found, strict=True)}
