"""Which clients are trained in one step: those whose adapters have one layout, as many as memory has room for."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fedlease.client.resident import ResidentModel
from fedlease.client.results import LocalResult
from fedlease.client.stacked_layers import RowsNotFirstError
from fedlease.client.stacked_model import slots_of, to_slots
from fedlease.client.stacked_training import Job, StackedTrainer, slots_only
from fedlease.core.types import ClientId, head_names
from fedlease.errors import UpdateRefusedError
from fedlease.tasks.base import StackingTask

__all__ = ["Job", "Stacker", "layout", "unstackable"]


def unstackable(resident: ResidentModel) -> str:
    """Why no clients of this model and task can be stacked, as far as it is known without computing; empty if not."""
    if not isinstance(resident.task, StackingTask):
        return "its task does not give the loss of every row"
    if getattr(resident.config, "is_encoder_decoder", False):
        return "an encoder-decoder takes only rows with equally many end tokens together"
    return ""


def layout(job: Job) -> Any:
    """What jobs that are stacked have in common; None where a job cannot be stacked.

    Anchors are read from a model that is loaded by itself; norms of tails are each client's own.
    """
    task, spec = job.task, job.task.model.spec
    if spec.anchors or (task.term is not None and task.term.tail):
        return None
    slots, order = to_slots(job.tensors.keys(), spec), slots_of(spec)
    shapes = {slots[n]: tuple(t.shape[1:] if n in head_names(slots) else t.shape) for n, t in job.tensors.items()}
    stages = tuple(
        (frozenset(slots[name] for name in stage.trainable), stage.epochs, slots_only(stage, order))
        for stage in task.stages
    )
    like = replace(spec, own=0) if spec.mixer == "top_m" else spec
    pull = None if task.term is None else task.term.pull
    return like, stages, tuple(sorted(shapes.items())), pull, frozenset(slots[n] for n in task.upload)


@dataclass
class Stacker:
    """Trains clients together and gives the result of each.

    Attributes:
        trainer: trains clients of one layout.
        clients: most in one step; is halved where memory has no room for them.
    """

    trainer: StackedTrainer
    clients: int
    _possible: bool = field(init=False)

    def __post_init__(self) -> None:
        self._possible = not unstackable(self.trainer.resident)

    def train(self, jobs: Sequence[Job]) -> dict[ClientId, LocalResult | UpdateRefusedError]:
        """Trains those that go together; who is not in the result is to be trained alone.

        Args:
            jobs: of one step, one per client.
        """
        groups: dict[Any, list[Job]] = {}
        for job in jobs if self._possible else ():
            if (key := layout(job)) is not None:
                groups.setdefault(key, []).append(job)
        results: dict[ClientId, LocalResult | UpdateRefusedError] = {}
        for group in groups.values():
            results |= self._within_memory(group)
        return results

    def _within_memory(self, jobs: Sequence[Job]) -> dict[ClientId, LocalResult | UpdateRefusedError]:
        if len(jobs) == 1:
            return {}
        try:
            return self.trainer.train(jobs)
        except RowsNotFirstError:
            self._possible = False
            return {}
        except torch.cuda.OutOfMemoryError:
            pass  # handled when the error, which holds the tensors of the step, is gone
        torch.cuda.empty_cache()
        half = len(jobs) // 2
        self.clients = max(1, min(self.clients, half))
        return self._within_memory(jobs[:half]) | self._within_memory(jobs[half:])
