"""A warm-up that tells what each half of a client's rows has added to B, and so how much of it is the client's task.

Every batch is of one half, in turn. AdamW's steps are linear in the gradients once their second moment is known, so
that what is learnt is the sum of what the batches of either half have added to it:

    m_h <- beta1 m_h + (1 - beta1) g  of a batch of half h, and beta1 m_h of another
    b_h <- (1 - lr w) b_h - lr m_h / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

with the gradient g after clipping, its second moment v and the weight decay w; b_0 + b_1 is B. Training is that of all
rows, which costs no step more than a warm-up whose halves nobody asks for.
"""

import math
from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedlease.core.seeds import generator
from fedlease.core.types import ClientId, ClientTask, TensorName, Tensors, head_names, second_half
from fedlease.tasks.base import Task
from fedlease.tasks.encoded import Encoded, training_batches

__all__ = ["Batch", "SecondHalf", "batches", "beginning", "in_turn", "parted", "split", "told_apart"]

Batch = tuple[int, list[int]]
"""The half that a batch is of, 0 where halves are not told apart, and its rows."""


def split(rows: Encoded, seed: int, client: ClientId, *, by_label: bool = True) -> tuple[list[int], list[int]]:
    """Two halves of a client's rows, each label divided evenly, drawn from the client's own seed.

    Rows of generation are divided evenly by the length of their answers. Without ``by_label`` the halves depend on the
    number of rows alone, and so tell nothing of what is in them.
    """
    drawn = torch.randperm(len(rows), generator=generator(seed, "halves", client)).tolist()
    ordered = sorted(drawn, key=lambda row: rows.labels[row]) if by_label else drawn
    return sorted(ordered[::2]), sorted(ordered[1::2])


def batches(
    lengths: Sequence[int], halves: Sequence[Sequence[int]], batch_size: int, shuffle: torch.Generator
) -> list[Batch]:
    """The batches of one pass over a client's rows.

    Args:
        lengths: tokens of each row.
        halves: the rows of either half; empty where they are not told apart.
        batch_size: rows of a batch.
        shuffle: draws the order.
    """
    if not halves:
        return [(0, batch) for batch in training_batches(lengths, batch_size, shuffle)]
    drawn = [training_batches([lengths[row] for row in half], batch_size, shuffle) for half in halves]
    return in_turn([[[half[i] for i in batch] for batch in own] for half, own in zip(halves, drawn, strict=True)])


def in_turn(halves: Sequence[Sequence[list[int]]]) -> list[Batch]:
    """The batches of halves, one of each after the other."""
    return [(half, batch) for both in zip_longest(*halves) for half, batch in enumerate(both) if batch is not None]


def beginning(task: ClientTask, tensors: Tensors, kind: Task, rows: Encoded) -> dict[str, Tensor]:
    """The tensors that a task begins with; where halves are told apart, the head's biases are those of labels alone.

    Without them the first thing that an adapter learns is how frequent the labels are: clients of one task whose labels
    are skewed in opposite ways would have contrary B.

    Args:
        task: whose model has the initial head.
        tensors: the model's, with private tensors laid over.
        kind: of the rows.
        rows: the client's train rows.
    """
    heads = head_names(task.model.tensors) if task.halves else ()
    biases = [name for name in heads if name.endswith("bias")]
    for name in sorted(biases, key=lambda name: len(task.model.tensors[name])):
        bias = task.model.tensors[name]
        if (found := kind.bias(rows, len(bias))) is not None:
            return {**tensors, name: bias + found.to(bias)}
    return dict(tensors)


class SecondHalf:
    """The part of trained values that batches of the second half have added.

    Attributes:
        part: one per value, of its shape.
    """

    def __init__(self, values: Sequence[nn.Parameter], begin: Sequence[Tensor] | None = None) -> None:
        """Begins to follow values.

        Args:
            values: that an AdamW trains.
            begin: their parts so far; None: 0.
        """
        self._values = values
        self.part = [torch.zeros_like(value) for value in values] if begin is None else [part.clone() for part in begin]
        self.fresh()

    def fresh(self) -> None:
        """Begins another stage, whose optimiser is a new one."""
        self._moments = [torch.zeros_like(value) for value in self._values]
        self._steps = [0] * len(self._values)

    def follow(self, adamw: Optimizer, second: Sequence[float | Tensor]) -> None:
        """Follows a step that has just been made, as long as the gradients are there; values without one made none.

        Args:
            adamw: that has made it.
            second: one per value, 1 where the batch was of the second half, else 0; broadcast over the value.
        """
        groups = {id(value): group for group in adamw.param_groups for value in group["params"]}
        for place, (value, share) in enumerate(zip(self._values, second, strict=True)):
            if value.grad is None:
                continue
            group, part, moment = groups[id(value)], self.part[place], self._moments[place]
            rate, (beta1, beta2) = group["lr"], group["betas"]
            self._steps[place] += 1
            step = self._steps[place]
            moment.lerp_(value.grad * share, 1 - beta1)
            sizes = adamw.state[value]["exp_avg_sq"].sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
            part.mul_(1 - rate * group["weight_decay"]).addcdiv_(moment, sizes, value=-rate / (1 - beta1**step))


def told_apart(task: ClientTask) -> list[str]:
    """The names of the B whose parts go back, sorted; empty of a task without halves."""
    return [name for name in sorted(task.upload) if task.halves and TensorName.parse(name).kind == "B"]


def parted(tensors: Tensors, second: Tensors) -> dict[str, Tensor]:
    """What a task has trained, each B in the parts that the first and the second half have added to it.

    Args:
        tensors: that were trained, by name.
        second: name of B -> the part of the second half.
    """
    return {**tensors, **{name: tensors[name] - part for name, part in second.items()}, **second_half(second)}
