"""Signs of false updates that have the right form: their length, their repetition, their direction.

Every rule is one that honest training keeps by itself, so that a run without liars is the same with and without them.
None of them makes a lie harmless that stays within the bounds: for that there are means that outvote few clients
(:mod:`fedlease.core.medians`, :mod:`fedlease.core.trimmed_mean`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from fedlease.core.choices import Against
from fedlease.core.types import ClientTask, ClientUpdate, TensorName, Tensors, second_half

__all__ = ["SAME", "Bounds", "Change", "apart", "beyond_the_step", "change_of", "copied", "start_of"]

SAME = 0.01
"""Two updates are one where they differ by less than this share of what training changed."""

ROUNDED = 1 / 100
"""Share of a tensor's largest value that rounding on the way may change, see :mod:`fedlease.privacy.bfloat16`."""


@dataclass(frozen=True)
class Bounds:
    """The rules, and what they need to know of the optimiser; by default there are none.

    Attributes:
        norm: an update is at most so many times as long as the median of its cluster; None: no rule.
        step: a value changes by at most so many learning rates in an optimiser step; None: no rule. AdamW with
            beta_1 = .9 and beta_2 = .999 cannot do more than 7.3 (Cauchy and Schwarz, of its two moments).
        copies: whether copies and replays are looked for.
        against: what becomes of an update that points against the others of its cluster.
        lr: learning rate.
        weight_decay: of AdamW.
        batch_size: rows per step.
    """

    norm: float | None = None
    step: float | None = None
    copies: bool = False
    against: Against = "name"
    lr: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 1

    def steps(self, task: ClientTask, rows: int) -> int:
        """The optimiser steps that a task takes at most."""
        return sum(stage.epochs for stage in task.stages) * math.ceil(rows / self.batch_size)


@dataclass(frozen=True)
class Change:
    """The change that an update makes.

    Attributes:
        start: the uploaded tensors before training.
        tensors: after it, with the names of ``start``.
        steps: that the client had for it.
        length: of the change over all tensors, Euclidean.
    """

    start: Tensors
    tensors: Tensors
    steps: int
    length: float

    def of(self, name: str) -> Tensor:
        """The change of one tensor, in float64; computed when it is asked for, so that no step is in memory twice."""
        return self.tensors[name].double() - self.start[name].double()


def start_of(task: ClientTask, choice: int | None) -> dict[str, Tensor]:
    """Values of the uploaded tensors before training, under the names of the upload."""
    model, names = task.model, task.upload
    if task.sketch is not None:
        return task.expected
    start = {name: {**model.tensors, **model.chosen(choice)}[name] for name in names}
    return {**start, **second_half(start)} if task.halves else start


def change_of(task: ClientTask, update: ClientUpdate, steps: int) -> Change:
    """The change by an update that :func:`fedlease.core.aggregate.check_update` has passed."""
    start = start_of(task, update.choice)
    tensors = {name: update.tensors[name] for name in start}  # without gradients
    return Change(start, tensors, steps, apart(tensors, start))


def beyond_the_step(task: ClientTask, update: ClientUpdate, rows: int, bounds: Bounds) -> str:
    """Why no optimiser of the settings can have made an update; empty where it can.

    A value w changes by at most n lr (c + weight decay x max |w|) in n steps, with c of ``bounds.step``.
    """
    if bounds.step is None or task.sketch is not None:
        # Unit matrices do not tell how far they went, and the server scales sketches to one length.
        return ""
    steps = bounds.steps(task, rows)
    for name, tensor in sorted(start_of(task, update.choice).items()):
        if not tensor.numel():
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
    """Why an update is no result of training but a copy of what was sent; empty where it is none.

    An update that leaves everything as it was is no lie: rows may teach the uploaded tensors nothing.
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
            return "what the two halves of its rows have added is one and the same (bounds.copies)"
    return ""


def _others_sent(task: ClientTask, update: ClientUpdate) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Tensors that a client was sent besides those that it trained, under the names of its upload."""
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
    """The Euclidean distance of two states, over the names of the second."""
    return math.sqrt(
        sum(float((one[name].double() - tensor.double()).square().sum()) for name, tensor in other.items())
    )
