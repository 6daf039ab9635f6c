"""What local training has come to: the update for the server, and what stays with the client."""

from dataclasses import dataclass

import torch

from fedlease.core.codec import serialisable
from fedlease.core.types import ANCHOR, ClientId, ClientTask, ClientUpdate, Tensors
from fedlease.errors import UpdateRefusedError
from fedlease.tasks.base import Measured

__all__ = ["WHOLE", "Ahead", "Half", "LocalResult", "check_learnt", "local_result"]


@dataclass(frozen=True)
class Half:
    """Which half of a client's rows is trained on.

    Attributes:
        number: 0 or 1, 2 or 3 where it goes on from what it has learnt before.
        of: all train rows of the client; 0 where it trains on all of them.
    """

    number: int = 0
    of: int = 0


WHOLE = Half()  # all rows of a client


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
    """What of a request has been done before it is handled, together with other clients'.

    Attributes:
        result: of its :func:`~fedlease.client.ahead.jobs_of`.
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
    for name in sorted(tensors.keys() - task.upload - {*task.gradient_names.values()}):
        # Uploads are checked by the server; nobody else sees these.
        if not bool(torch.isfinite(tensors[name]).all()):
            raise UpdateRefusedError(client, f"{name} holds values that are NaN or infinite after training")


def local_result(
    client: ClientId, task: ClientTask, num_examples: int, tensors: Tensors, loss: float, steps: int, seconds: float
) -> LocalResult:
    """Divides trained tensors into the update and what stays with the client."""
    update = ClientUpdate(
        client=client,
        phase=task.phase,
        round=task.round,
        num_examples=num_examples,
        tensors={name: tensors[name] for name in sorted({*task.upload, *task.gradient_names.values()})},
        metrics={"loss": loss},
    )
    own = (task.private | {ANCHOR}) & tensors.keys()
    return LocalResult(update, {name: tensors[name] for name in sorted(own)}, steps, seconds)
