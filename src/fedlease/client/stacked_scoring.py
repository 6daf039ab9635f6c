"""Scores several clients in one pass: their rows in one batch, each through its own adapter and head."""

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
    """A client's model and the rows that it is scored on, at least one.

    Attributes:
        client: who.
        spec: of the adapter.
        tensors: adapter and head, private tensors laid over.
        rows: tokenised.
        num_labels: size of the client's label list.
        candidate: which of several models of the client it is.
        alone: whether its own expert is scored, without the others.
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
        """The slots of the experts that are summed in the place of the mixer; None: as the mixer has it."""
        return (slots_of(self.spec).index(self.spec.own),) if self.alone else None

    @property
    def key(self) -> tuple[ClientId, int]:
        """What tells it from other jobs."""
        return self.client, self.candidate


def score_stacked(
    model: StackedModel, task: StackingTask, jobs: Sequence[Scoring], threads: int
) -> dict[tuple[ClientId, int], Measured]:
    """Scores clients whose adapters have one layout.

    Args:
        model: with the base.
        task: by which they are scored.
        jobs: at least one.
        threads: of the processor.

    Returns:
        Key -> what :meth:`fedlease.tasks.base.Task.measure` gives for it.

    Raises:
        RowsNotFirstError: the architecture cannot compute clients together.
    """
    return _by_key(model, jobs, lambda rows: task.measure_stacked(model, rows, threads))


def losses_stacked(
    model: StackedModel, task: StackingTask, jobs: Sequence[Scoring], threads: int
) -> dict[tuple[ClientId, int], float]:
    """As :func:`score_stacked`, key -> what :meth:`fedlease.tasks.base.Task.mean_loss` gives for it."""
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
