"""A warm-up on two halves of a client's rows, which tells how much of the result is the client's task."""

from collections.abc import Callable
from dataclasses import replace

import torch

from fedlease.client.results import Half, LocalResult
from fedlease.client.training import OnBatch, TrainsTasks
from fedlease.core.seeds import generator
from fedlease.core.types import ClientId, ClientTask, TensorName, Tensors, head_names, second_half
from fedlease.tasks.base import Task
from fedlease.tasks.encoded import Encoded

__all__ = ["both", "halves_of", "split", "train_halves"]


def split(rows: Encoded, seed: int, client: ClientId, *, by_label: bool = True) -> tuple[list[int], list[int]]:
    """Two halves of a client's rows, each label divided evenly, drawn from the client's own seed.

    Rows of generation are divided evenly by the length of their answers. Without ``by_label`` the halves depend on the
    number of rows alone, and so tell nothing of what is in them.
    """
    drawn = torch.randperm(len(rows), generator=generator(seed, "halves", client)).tolist()
    ordered = sorted(drawn, key=lambda row: rows.labels[row]) if by_label else drawn
    return sorted(ordered[::2]), sorted(ordered[1::2])


def halves_of(
    task: ClientTask, rows: Encoded, kind: Task, seed: int, client: ClientId, *, by_label: bool = True
) -> list[tuple[int, Tensors, Encoded]]:
    """Each half's number, by which batches are drawn, what it begins with, and its rows.

    Neither half sees what the other has learnt, so what their A and B have in common is the client's task.

    Args:
        task: with ``halves``; where its model has candidates, half h continues from candidate h, as number h + 2.
        rows: the client's train rows, at least two.
        kind: of the rows.
        seed: root seed of the run.
        client: whose rows.
        by_label: whether labels may say which rows are in a half, and what the biases of a head begin with.
    """
    found = list[tuple[int, Tensors, Encoded]]()
    for half, chosen in enumerate(split(rows, seed, client, by_label=by_label)):
        start = task.model.candidates[half] if task.model.candidates else {}
        own = rows.take(chosen)
        prior = _prior(task.model.tensors, kind, own) if by_label else {}
        found.append((half + len(task.model.candidates), {**task.model.tensors, **start, **prior}, own))
    return found


def both(one: LocalResult, other: LocalResult, num_examples: int) -> LocalResult:
    """The result of a task from those of its halves."""
    tensors = {**one.update.tensors, **second_half(other.update.tensors)}
    tensors |= _means(one.update.tensors, other.update.tensors)
    loss = (one.update.metrics["loss"] + other.update.metrics["loss"]) / 2
    update = replace(one.update, num_examples=num_examples, tensors=tensors, metrics={"loss": loss})
    private = {**one.private, **_means(one.private, other.private)}
    return LocalResult(update, private, one.steps + other.steps, one.seconds + other.seconds)


def train_halves(
    trainer: TrainsTasks,
    load: Callable[[Tensors], None],
    client: ClientId,
    task: ClientTask,
    rows: Encoded,
    on_batch: OnBatch | None = None,
    *,
    by_label: bool = True,
) -> LocalResult:
    """Trains a task on each half of the rows, both from the same start, see :func:`halves_of`.

    Args:
        trainer: of either half.
        load: puts tensors of the task's model in place.
        client: whose rows.
        task: with ``halves``.
        rows: the client's train rows, at least two.
        on_batch: called after every step, with the steps of both halves.
        by_label: see :func:`halves_of`.

    Raises:
        UpdateRefusedError: as :meth:`fedlease.client.training.Trainer.train`.
    """
    results = []
    halves = halves_of(task, rows, trainer.resident.task, trainer.optimiser.seed, client, by_label=by_label)
    for half, (number, tensors, own) in enumerate(halves):
        load(tensors)
        report = None if on_batch is None else _over_both(on_batch, half)
        results.append(trainer.train(client, replace(task, halves=False), own, report, half=Half(number, len(rows))))
    return both(results[0], results[1], len(rows))


def _prior(tensors: Tensors, task: Task, rows: Encoded) -> dict[str, torch.Tensor]:
    """The biases of the last layer of a head, where they would be if rows differed in their labels alone.

    Without them the first thing that an adapter learns is how frequent the labels are: clients of one task whose labels
    are skewed in opposite ways would have contrary B.
    """
    biases = [name for name, t in tensors.items() if name in head_names(tensors) and name.endswith("bias")]
    for name in sorted(biases, key=lambda name: len(tensors[name])):
        bias = tensors[name]
        if (found := task.bias(rows, len(bias))) is not None:
            return {name: bias + found.to(bias)}
    return {}


def _means(one: Tensors, other: Tensors) -> dict[str, torch.Tensor]:
    """The mean of what does not belong to an expert, such as heads."""
    return {name: (one[name] + other[name]) / 2 for name in one if TensorName.parse(name).expert is None}


def _over_both(on_batch: OnBatch, half: int) -> OnBatch:
    return lambda client, done, total, loss: on_batch(client, half * total + done, 2 * total, loss)
