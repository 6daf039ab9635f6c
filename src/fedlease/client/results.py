"""Results of local training: the update for the server, and the tensors that stay with the client."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch

from fedlease.client.store import WARMUP_SLOT, Private
from fedlease.core.codec import serialisable
from fedlease.core.types import ANCHOR, ClientId, ClientTask, ClientUpdate, Tensors, head_names
from fedlease.errors import UpdateRefusedError
from fedlease.tasks.base import Measured

__all__ = [
    "Ahead",
    "LocalResult",
    "as_asked",
    "check_learnt",
    "kept_result",
    "local_result",
    "sketched",
]


@serialisable
@dataclass(frozen=True)
class LocalResult:
    """The outcome of local training.

    Attributes:
        update: for the server.
        private: tensors that stay with the client.
        steps: optimiser steps.
        seconds: time spent training.
    """

    update: ClientUpdate
    private: Tensors
    steps: int
    seconds: float


@dataclass(frozen=True)
class Ahead:
    """Work of a request that was done before it is handled, together with other clients'.

    Attributes:
        result: of its :func:`~fedlease.client.ahead.job_of`.
        measured: of its :func:`~fedlease.client.ahead.scoring_of`.
        seconds: the client's share of the time that scoring and comparing took.
        alone: the headline metric of its :func:`~fedlease.client.ahead.alone_of`.
        choice: the best of the candidates of its :func:`~fedlease.client.ahead.candidates_of`.
    """

    result: LocalResult | UpdateRefusedError | None = None
    measured: Measured | None = None
    seconds: float = 0.0
    alone: float | None = None
    choice: int | None = None


def check_learnt(client: ClientId, task: ClientTask, tensors: Tensors, loss: float, *, learnt: bool) -> None:
    """Refuses what training has come to where no step had a gradient, or where a private tensor is not finite.

    Args:
        client: whose.
        task: what was trained.
        tensors: by name, as they are now.
        loss: of the last pass.
        learnt: whether any step had a gradient.

    Raises:
        UpdateRefusedError: as it says.
    """
    if not learnt:
        raise UpdateRefusedError(client, f"no step had a gradient, the loss is {loss:g}: its rows teach nothing")
    # Uploads are checked by the server; nobody else sees these.
    _check_finite(client, tensors, tensors.keys() - task.upload - {*task.gradient_names.values()})


def _check_finite(client: ClientId, tensors: Tensors, names: Collection[str]) -> None:
    for name in sorted(names):
        if not bool(torch.isfinite(tensors[name]).all()):
            raise UpdateRefusedError(client, f"{name} holds values that are NaN or infinite after training")


def local_result(
    client: ClientId, task: ClientTask, num_examples: int, tensors: Tensors, loss: float, steps: int, seconds: float
) -> LocalResult:
    """Divides trained tensors into the update and what stays with the client, which a sketch is not made of yet."""
    update = ClientUpdate(
        client=client,
        phase=task.phase,
        round=task.round,
        num_examples=num_examples,
        tensors={name: tensors[name] for name in sorted(task.expected)},
        metrics={"loss": loss},
    )
    own = (task.private | {ANCHOR}) & tensors.keys()
    return LocalResult(update, {name: tensors[name] for name in sorted(own)}, steps, seconds)


def as_asked(known: LocalResult, task: ClientTask) -> LocalResult:
    """Another method's result, divided into upload and private tensors as this task asks."""
    if task.halves:
        return known
    tensors = {**known.update.tensors, **known.private}
    loss = known.update.metrics["loss"]
    return local_result(known.update.client, task, known.update.num_examples, tensors, loss, known.steps, known.seconds)


def kept_result(client: ClientId, task: ClientTask, num_examples: int, private: Private) -> LocalResult:
    """What a client has kept of its warm-up, as the result of a task that trains nothing.

    Raises:
        UpdateRefusedError: it has kept none.
    """
    if WARMUP_SLOT not in private.slots:
        raise UpdateRefusedError(client, "it has kept no warm-up")
    result = local_result(client, task, num_examples, private.overlay(task.model), 0.0, 0, 0.0)
    return replace(result, update=replace(result.update, metrics={}))  # nothing was trained, so there is no loss


def sketched(result: LocalResult, task: ClientTask) -> LocalResult:
    """A warm-up as it leaves: sketches, while the adapter that they are of stays with the client.

    Args:
        result: of the task without its sketch.
        task: as it was asked; one without a sketch leaves the result as it is.

    Raises:
        UpdateRefusedError: what was trained is not finite.
    """
    if task.sketch is None:
        return result
    update, heads = result.update, head_names(result.update.tensors)
    trained = {name: tensor for name, tensor in update.tensors.items() if name not in heads}
    _check_finite(update.client, trained, trained)
    sent = {**{name: update.tensors[name] for name in sorted(heads)}, **task.sketch.of(trained)}
    return replace(result, update=replace(update, tensors=sent), private={**result.private, **trained})
