"""Rules that detect false updates of the right form by their length, repetition or direction.

Honest training keeps every rule, so that they do not change a run without lying clients. A false update within the
bounds passes; means that outvote a few clients protect from it (:mod:`fedlease.core.medians`,
:mod:`fedlease.core.trimmed_mean`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from fedlease.core.choices import Against
from fedlease.core.types import HEAD, ClientTask, ClientUpdate, TensorName, Tensors, second_half

__all__ = ["SAME", "Bounds", "Change", "apart", "beyond_the_step", "change_of", "copied", "start_of"]

SAME = 0.01
"""Two updates count as copies if they differ by at most this share of the change that training made."""

ROUNDED = 1 / 100
"""Share of a tensor's largest value by which :mod:`fedlease.privacy.bfloat16` may change any of its values."""


@dataclass(frozen=True)
class Bounds:
    """The rules, and the settings of the optimiser that they need; by default there is no rule.

    Attributes:
        norm: largest length of an update, as a multiple of the median of its cluster; None: no rule.
        step: largest change of a value in an optimiser step, in learning rates; None: no rule. AdamW with beta_1 = 0.9
            and beta_2 = 0.999 cannot exceed 7.3 (by the Cauchy-Schwarz inequality for its two moments).
        copies: whether copies and replays are searched for.
        against: what happens to an update that points against the others of its cluster.
        lr: learning rate.
        weight_decay: of AdamW.
        batch_size: rows per step.
        private: whether training is differentially private. Heads then take steps of other lengths
            (:mod:`fedlease.client.head_inputs`), for which ``step`` is no rule.
    """

    norm: float | None = None
    step: float | None = None
    copies: bool = False
    against: Against = "name"
    lr: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 1
    private: bool = False

    def steps(self, task: ClientTask, rows: int) -> int:
        """Largest number of optimiser steps of a task."""
        return sum(stage.epochs for stage in task.stages) * math.ceil(rows / self.batch_size)


@dataclass(frozen=True)
class Change:
    """The change that an update makes.

    Attributes:
        start: the uploaded tensors before training.
        tensors: the same tensors after training.
        steps: optimiser steps of the task.
        length: Euclidean norm of the change over all tensors.
    """

    start: Tensors
    tensors: Tensors
    steps: int
    length: float

    def of(self, name: str) -> Tensor:
        """The change of one tensor, in float64; it is not stored, to save memory."""
        return self.tensors[name].double() - self.start[name].double()


def start_of(task: ClientTask, choice: int | None) -> dict[str, Tensor]:
    """Values of the uploaded tensors before training, under the names of the upload."""
    model, names = task.model, task.upload
    if task.sketch is not None:
        return task.expected
    start = {name: {**model.tensors, **model.chosen(choice)}[name] for name in names}
    return {**start, **second_half(start)} if task.halves else start


def change_of(task: ClientTask, update: ClientUpdate, steps: int) -> Change:
    """The change made by an update that has passed :func:`fedlease.core.aggregate.check_update`."""
    start = start_of(task, update.choice)
    tensors = {name: update.tensors[name] for name in start}  # leaves out mean gradients
    return Change(start, tensors, steps, apart(tensors, start))


def beyond_the_step(task: ClientTask, update: ClientUpdate, rows: int, bounds: Bounds) -> str:
    """The reason why the optimiser of the settings cannot have made an update; empty if it can.

    In n steps, a value w changes by at most n lr (c + weight decay x max |w|), with c = ``bounds.step``.
    """
    if bounds.step is None or task.sketch is not None:
        # Sketches are of unit length and say nothing about the size of a change.
        return ""
    steps = bounds.steps(task, rows)
    for name, tensor in sorted(start_of(task, update.choice).items()):
        if not tensor.numel() or (bounds.private and name.startswith(f"{HEAD}/")):
            continue
        largest = float(tensor.abs().max())
        most = steps * bounds.lr * (bounds.step + bounds.weight_decay * largest) + ROUNDED * largest
        found = float((update.tensors[name] - tensor).abs().max())
        if found > most:
            return (
                f"{name} holds a value that changed by {found:.3g}, and {steps} steps at train.lr = {bounds.lr:g} "
                f"cannot change one by more than {most:.3g} (bounds.step)"
            )
    return ""


def copied(task: ClientTask, update: ClientUpdate) -> str:
    """The reason why an update is a copy of something that the client was sent; empty if it is not.

    An update without any change is allowed: rows may teach the uploaded tensors nothing.
    """
    start = start_of(task, update.choice)
    moved = apart(update.tensors, start)
    if not moved:
        return ""
    for what, tensors in _others_sent(task, update):
        if apart(update.tensors, tensors) <= SAME * moved:
            return f"it is a copy of {what} that it was sent (bounds.copies)"
    if task.halves:
        halves = second_half({name: update.tensors[name] for name in start})
        own = {name: update.tensors[name] for name in halves}
        if halves and apart(own, halves) <= SAME * moved:
            return "the two halves of its rows have added exactly the same (bounds.copies)"
    return ""


def _others_sent(task: ClientTask, update: ClientUpdate) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yields the other experts and candidates that a client was sent, under the names of its upload."""
    model, own = task.model, task.model.spec.own
    experts = {name: TensorName.parse(name) for name in task.upload}
    for expert in range(model.spec.num_experts):
        renamed = {n: str(p._replace(expert=expert)) for n, p in experts.items() if p.expert == own and expert != own}
        if renamed and all(other in model.tensors for other in renamed.values()):
            yield f"expert {expert}", {name: model.tensors[other] for name, other in renamed.items()}
    for place, candidate in enumerate(model.candidates):
        if place != update.choice and candidate.keys() & task.upload:
            yield f"candidate {place}", {name: candidate[name] for name in candidate.keys() & task.upload}


def apart(one: Tensors, other: Tensors) -> float:
    """The Euclidean distance between two states, over the names of the second."""
    return math.sqrt(
        sum(float((one[name].double() - tensor.double()).square().sum()) for name, tensor in other.items())
    )
