"""Selection of clients that are computed in one step: clients with the same layout, as many as fit into memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch

from fedlease.client.resident import ResidentModel
from fedlease.client.results import LocalResult
from fedlease.client.stacked_layers import RowsNotFirstError
from fedlease.client.stacked_model import slots_of, to_slots
from fedlease.client.stacked_scoring import Scoring, losses_stacked, score_stacked
from fedlease.client.stacked_training import Job, StackedTrainer, slots_only
from fedlease.core.types import ANCHOR, ClientId, LocalTerm, head_names
from fedlease.errors import UpdateRefusedError
from fedlease.tasks.base import Measured, StackingTask, Task

__all__ = ["Stacker", "layout", "unstackable"]

J = TypeVar("J", Job, Scoring)
K = TypeVar("K")
R = TypeVar("R")
MIXERS = ("none", "sum", "core", "heads", "diagonal", "sparse", "top_m", "softmax", "scalar", "instance")
"""Mixers that :class:`~fedlease.client.stacked_layers.StackedLinear` supports."""


def unstackable(resident: ResidentModel) -> str:
    """The reason why clients of this model and task cannot be stacked, if it is known beforehand; empty otherwise."""
    if not isinstance(resident.task, StackingTask):
        return "its task does not give the loss of every row"
    if getattr(resident.config, "is_encoder_decoder", False):
        return "an encoder-decoder takes only rows with equally many end tokens together"
    return ""


def layout(job: Job | Scoring) -> Any:
    """A key that is equal for jobs that can be stacked together; None for a job that cannot be stacked."""
    spec = job.spec if isinstance(job, Scoring) else job.task.model.spec
    if spec.mixer not in MIXERS:
        return None
    slots, order = to_slots(job.tensors.keys(), spec), slots_of(spec)
    heads = head_names(slots)
    # Heads may differ in their first dimension, and a client may have no anchor yet.
    shapes = {slots[n]: tuple(t.shape[1:] if n in heads else t.shape) for n, t in job.tensors.items() if n != ANCHOR}
    like = replace(spec, own=0) if spec.mixer == "top_m" else spec, tuple(sorted(shapes.items()))
    if isinstance(job, Scoring):
        return like, job.only
    stages = tuple(
        (frozenset(slots[name] for name in stage.trainable), stage.epochs, slots_only(stage, order))
        for stage in job.task.stages
    )
    task = job.task
    term = task.term or LocalTerm()
    penalties = term.pull, term.tail, term.kept, term.apart
    return like, stages, penalties, task.gradients, task.halves, frozenset(slots[name] for name in task.upload)


@dataclass
class Stacker:
    """Trains and scores clients together.

    Attributes:
        trainer: trains clients of one layout.
        clients: most clients in one step; it is reduced if memory is too small.
    """

    trainer: StackedTrainer
    clients: int
    _possible: bool = field(init=False)

    def __post_init__(self) -> None:
        self._possible = not unstackable(self.trainer.resident)

    @property
    def task(self) -> Task:
        """The learning task."""
        return self.trainer.resident.task

    def train(self, jobs: Sequence[Job]) -> dict[ClientId, LocalResult | UpdateRefusedError]:
        """Trains jobs that can be stacked; clients that are not in the result must be trained alone.

        Args:
            jobs: of one step, one per client.
        """
        return self._together(jobs, self.trainer.train)

    def score(self, jobs: Sequence[Scoring]) -> dict[ClientId, Measured]:
        """Scores jobs that can be stacked, one per client; the others must be scored alone."""
        found = self._together(jobs, partial(self._scored, score_stacked))
        return {client: measured for (client, _), measured in found.items()}

    def losses(self, jobs: Sequence[Scoring]) -> dict[tuple[ClientId, int], float]:
        """Key -> mean loss, for jobs that can be stacked."""
        return self._together(jobs, partial(self._scored, losses_stacked))

    def _scored(self, work: Callable[..., dict[tuple[ClientId, int], R]], group: Sequence[Scoring]) -> Any:
        task, threads = self.task, self.trainer.optimiser.threads
        assert isinstance(task, StackingTask)
        return work(self.trainer.model(group[0].spec), task, group, threads)

    def _together(self, jobs: Sequence[J], work: Callable[[Sequence[J]], dict[K, R]]) -> dict[K, R]:
        groups: dict[Any, list[J]] = {}
        for job in jobs:
            if (key := layout(job)) is not None:
                groups.setdefault(key, []).append(job)
        results: dict[K, R] = {}
        for group in groups.values():
            while group:
                # Groups of about equal size, so that no client is left alone.
                size = math.ceil(len(group) / math.ceil(len(group) / self.clients))
                now, group = group[:size], group[size:]
                results |= self._within_memory(now, work)
        return results

    def _within_memory(self, jobs: Sequence[J], work: Callable[[Sequence[J]], dict[K, R]]) -> dict[K, R]:
        if len(jobs) == 1 or not self._possible:
            return {}
        try:
            return work(jobs)
        except RowsNotFirstError:
            self._possible = False
            return {}
        except torch.cuda.OutOfMemoryError:
            pass  # handled below, after the error, which keeps the tensors of the step alive, is gone
        torch.cuda.empty_cache()
        half = len(jobs) // 2
        self.clients = max(1, min(self.clients, half))
        return self._within_memory(jobs[:half], work) | self._within_memory(jobs[half:], work)
