"""Scores several clients in one pass: their rows in one batch, each through its own adapter and head."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedlease.client.stacked_model import StackedModel, to_slots
from fedlease.core.types import AdapterSpec, ClientId, Tensors
from fedlease.tasks.base import Measured, StackingTask
from fedlease.tasks.encoded import Encoded

__all__ = ["Scoring", "score_stacked"]


@dataclass(frozen=True)
class Scoring:
    """A client's model and the rows that it is scored on, at least one.

    Attributes:
        client: who.
        spec: of the adapter.
        tensors: adapter and head, private tensors laid over.
        rows: tokenised.
        num_labels: size of the client's label list.
    """

    client: ClientId
    spec: AdapterSpec
    tensors: Tensors
    rows: Encoded
    num_labels: int

    @property
    def key(self) -> ClientId:
        """What tells it from other jobs."""
        return self.client


def score_stacked(
    model: StackedModel, task: StackingTask, jobs: Sequence[Scoring], threads: int
) -> dict[ClientId, Measured]:
    """Scores clients whose adapters have one layout.

    Args:
        model: with the base.
        task: by which they are scored.
        jobs: at least one.
        threads: of the processor.

    Returns:
        Client -> what :meth:`fedlease.tasks.base.Task.measure` gives for it.

    Raises:
        RowsNotFirstError: the architecture cannot compute clients together.
    """
    jobs = sorted(jobs, key=lambda job: (-len(job.rows), job.client))
    slots = [to_slots(job.tensors.keys(), job.spec) for job in jobs]
    tensors = [{names[name]: job.tensors[name] for name in names} for names, job in zip(slots, jobs, strict=True)]
    with model.using(jobs[0].rows):
        model.load(jobs[0].spec, tensors, [job.num_labels for job in jobs])
        found = task.measure_stacked(model, [job.rows for job in jobs], threads)
    return {job.client: measured for job, measured in zip(jobs, found, strict=True)}
