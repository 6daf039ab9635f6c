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
    """Results of a request that were computed together with other clients', before the request is handled.

    Attributes:
        result: of the job of :func:`~fedlease.client.ahead.job_of`.
        measured: scores of the job of :func:`~fedlease.client.ahead.scoring_of`.
        seconds: the client's share of the time for scoring and comparing candidates.
        alone: headline metric of the job of :func:`~fedlease.client.ahead.alone_of`.
        choice: best candidate by the jobs of :func:`~fedlease.client.ahead.candidates_of`.
    """

    result: LocalResult | UpdateRefusedError | None = None
    measured: Measured | None = None
    seconds: float = 0.0
    alone: float | None = None
    choice: int | None = None


def check_learnt(client: ClientId, task: ClientTask, tensors: Tensors, loss: float, *, learnt: bool) -> None:
    """Refuses the result of training if no step had a gradient, or if a private tensor is not finite.

    Args:
        client: id of the client.
        task: that was trained.
        tensors: trained tensors by name.
        loss: mean loss of the last pass.
        learnt: whether any step had a gradient.

    Raises:
        UpdateRefusedError: the result is refused.
    """
    if not learnt:
        raise UpdateRefusedError(client, f"no step had a gradient, the loss is {loss:g}: its rows teach nothing")
    # The server checks uploads; only the client can check private tensors.
    _check_finite(client, tensors, tensors.keys() - task.upload - {*task.gradient_names.values()})


def _check_finite(client: ClientId, tensors: Tensors, names: Collection[str]) -> None:
    for name in sorted(names):
        if not bool(torch.isfinite(tensors[name]).all()):
            raise UpdateRefusedError(client, f"{name} holds values that are NaN or infinite after training")


def local_result(
    client: ClientId, task: ClientTask, num_examples: int, tensors: Tensors, loss: float, steps: int, seconds: float
) -> LocalResult:
    """Divides trained tensors into the update, not sketched yet, and the tensors that stay with the client."""
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
    """Divides the result of another method into upload and private tensors as a task asks for."""
    if task.halves:
        return known
    tensors = {**known.update.tensors, **known.private}
    loss = known.update.metrics["loss"]
    return local_result(known.update.client, task, known.update.num_examples, tensors, loss, known.steps, known.seconds)


def kept_result(client: ClientId, task: ClientTask, num_examples: int, private: Private) -> LocalResult:
    """The warm-up that a client has kept, as the result of a task without training.

    Raises:
        UpdateRefusedError: the client has kept no warm-up.
    """
    if WARMUP_SLOT not in private.slots:
        raise UpdateRefusedError(client, "it has kept no warm-up")
    result = local_result(client, task, num_examples, private.overlay(task.model), 0.0, 0, 0.0)
    return replace(result, update=replace(result.update, metrics={}))  # without training there is no loss


def sketched(result: LocalResult, task: ClientTask) -> LocalResult:
    """Replaces the adapter in an update by its sketches; the adapter becomes private.

    Args:
        result: of the task, before sketching.
        task: as it was requested; without a sketch, the result is returned unchanged.

    Raises:
        UpdateRefusedError: a trained tensor is not finite.
    """
    if task.sketch is None:
        return result
    update, heads = result.update, head_names(result.update.tensors)
    trained = {name: tensor for name, tensor in update.tensors.items() if name not in heads}
    _check_finite(update.client, trained, trained)
    sent = {**{name: update.tensors[name] for name in sorted(heads)}, **task.sketch.of(trained)}
    return replace(result, update=replace(update, tensors=sent), private={**result.private, **trained})
