"""Warm-ups on two halves of a client's rows, which separate what each half has added to B.

Every batch is of one half, in turns. Given their second moment, AdamW's steps are linear in the gradients, so that B is
the sum of what the batches of either half have added to it:

    m_h <- beta1 m_h + (1 - beta1) g  for a batch of half h, and beta1 m_h for a batch of the other half
    b_h <- (1 - lr w) b_h - lr m_h / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

with the gradient g after clipping, its second moment v and the weight decay w; b_0 + b_1 is B. This needs no more steps
than a warm-up without halves.
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
"""The half of a batch, 0 without halves, and its rows."""


def split(rows: Encoded, seed: int, client: ClientId, *, by_label: bool = True) -> tuple[list[int], list[int]]:
    """Divides a client's rows into two random halves, with the rows of every label divided evenly.

    For generation, rows are divided evenly by the length of their answers.

    Args:
        rows: of the client.
        seed: root seed.
        client: id of the client.
        by_label: whether labels matter; without it, the halves depend only on the number of rows and reveal nothing.
    """
    drawn = torch.randperm(len(rows), generator=generator(seed, "halves", client)).tolist()
    ordered = sorted(drawn, key=lambda row: rows.labels[row]) if by_label else drawn
    return sorted(ordered[::2]), sorted(ordered[1::2])


def batches(
    lengths: Sequence[int], halves: Sequence[Sequence[int]], batch_size: int, shuffle: torch.Generator
) -> list[Batch]:
    """The batches of one pass over a client's rows.

    Args:
        lengths: number of tokens of every row.
        halves: rows of either half; empty without halves.
        batch_size: most rows of a batch.
        shuffle: generator for the order.
    """
    if not halves:
        return [(0, batch) for batch in training_batches(lengths, batch_size, shuffle)]
    drawn = [training_batches([lengths[row] for row in half], batch_size, shuffle) for half in halves]
    return in_turn([[[half[i] for i in batch] for batch in own] for half, own in zip(halves, drawn, strict=True)])


def in_turn(halves: Sequence[Sequence[list[int]]]) -> list[Batch]:
    """The batches of two halves in turns."""
    return [(half, batch) for both in zip_longest(*halves) for half, batch in enumerate(both) if batch is not None]


def beginning(task: ClientTask, tensors: Tensors, kind: Task, rows: Encoded) -> dict[str, Tensor]:
    """The tensors that a task starts from; with halves, the head's bias starts at the frequencies of the labels.

    Otherwise, adapters would first learn these frequencies, and two clients of one task with oppositely skewed labels
    would get opposite B.

    Args:
        task: its model has the initial head.
        tensors: of the model, with private tensors in their places.
        kind: the learning task, which computes the bias.
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
    """Tracks the part of trained parameters that batches of the second half have added.

    Attributes:
        part: a tensor per parameter, of its shape.
    """

    def __init__(self, values: Sequence[nn.Parameter], begin: Sequence[Tensor] | None = None) -> None:
        """Starts tracking.

        Args:
            values: parameters that an AdamW trains.
            begin: their parts so far; None: 0.
        """
        self._values = values
        self.part = [torch.zeros_like(value) for value in values] if begin is None else [part.clone() for part in begin]
        self.fresh()

    def fresh(self) -> None:
        """Resets the moments, for a stage with a new optimiser."""
        self._moments = [torch.zeros_like(value) for value in self._values]
        self._steps = [0] * len(self._values)

    def follow(self, adamw: Optimizer, second: Sequence[float | Tensor]) -> None:
        """Tracks a step that has just been made, before its gradients are cleared.

        Args:
            adamw: the optimiser that made the step.
            second: per parameter, 1 if the batch was of the second half, else 0; broadcast over the parameter.
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
    """The names of the B that are uploaded in two parts, sorted; [] for a task without halves."""
    return [name for name in sorted(task.upload) if task.halves and TensorName.parse(name).kind == "B"]


def parted(tensors: Tensors, second: Tensors) -> dict[str, Tensor]:
    """Splits every trained B into the parts that the first and the second half have added.

    Args:
        tensors: trained tensors by name.
        second: name of a B -> the part of the second half.
    """
    return {**tensors, **{name: tensors[name] - part for name, part in second.items()}, **second_half(second)}
