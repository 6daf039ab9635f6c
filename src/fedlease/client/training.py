"""One client's work in one round: load, train the stages, give back. The same in every engine."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedlease.client.resident import ResidentModel
from fedlease.core.codec import serialisable
from fedlease.core.seeds import derive, generator
from fedlease.core.types import ANCHOR, ClientId, ClientTask, ClientUpdate, Tensors
from fedlease.errors import UpdateRefusedError
from fedlease.tasks.base import Encoded
from fedlease.tasks.batches import training_batches

__all__ = ["LocalResult", "OnBatch", "Optimiser", "local_step"]

OnBatch = Callable[[int, int, float], None]
"""Receives steps done, steps in total, and the loss of the last."""


@dataclass(frozen=True)
class Optimiser:
    """A fresh AdamW for every stage, constant learning rate.

    Attributes:
        lr: learning rate.
        weight_decay: AdamW's.
        batch_size: rows per step.
        clip_norm: largest gradient norm, or None.
        threads: CPU threads; other counts sum in another order.
        seed: root seed of the run.
    """

    lr: float
    weight_decay: float
    batch_size: int
    clip_norm: float | None
    threads: int
    seed: int


@serialisable
@dataclass(frozen=True)
class LocalResult:
    """What local training leaves.

    Attributes:
        update: goes to the server.
        private: stays with the client.
        steps: optimiser steps.
        seconds: of training.
    """

    update: ClientUpdate
    private: Tensors
    steps: int
    seconds: float


def local_step(
    resident: ResidentModel,
    client: ClientId,
    task: ClientTask,
    rows: Encoded,
    optimiser: Optimiser,
    on_batch: OnBatch | None = None,
) -> LocalResult:
    """Trains the stages of a task on what is loaded in ``resident``.

    Args:
        resident: with the task's model and the client's private tensors loaded.
        client: whose rows.
        task: what to train and what to upload.
        rows: the client's train rows, tokenised.
        optimiser: see :class:`Optimiser`.
        on_batch: called after every step.

    Raises:
        UpdateRefusedError: the loss is NaN or infinite, or no gradient reached anything; nothing of this step may be
            used: what was received would be averaged as if it had been learnt.
        ConfigError: a GPU cannot give the same bits every time, and the settings want it.
    """
    with resident.repeatable():
        return _trained(resident, client, task, rows, optimiser, on_batch)


def _trained(
    resident: ResidentModel,
    client: ClientId,
    task: ClientTask,
    rows: Encoded,
    optimiser: Optimiser,
    on_batch: OnBatch | None,
) -> LocalResult:
    torch.set_num_threads(optimiser.threads)
    started = time.perf_counter()
    total = sum(stage.epochs for stage in task.stages) * math.ceil(len(rows) / optimiser.batch_size)
    done = 0
    losses: list[float] = []
    learnt = False
    for number, stage in enumerate(task.stages):
        parameters = resident.train_only(stage.trainable)
        resident.restrict(stage.experts)
        resident.model.train()
        torch.manual_seed(derive(optimiser.seed, "dropout", client, task.round, number))
        shuffle = generator(optimiser.seed, "batches", client, task.round, number)
        adamw = torch.optim.AdamW(parameters, lr=optimiser.lr, weight_decay=optimiser.weight_decay, fused=True)
        for epoch in range(stage.epochs):
            losses = []
            for batch in training_batches(rows.lengths, optimiser.batch_size, shuffle):
                loss = resident.task.batch_loss(resident, rows, batch)
                value = loss.item()
                if not math.isfinite(value):
                    raise UpdateRefusedError(client, f"loss is {value} in epoch {epoch + 1}, step {done + 1}")
                loss.backward()
                # One step with a gradient is enough, and as a rule it is the first.
                learnt = learnt or any(p.grad is not None and bool(p.grad.any()) for p in parameters)
                if optimiser.clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_(parameters, optimiser.clip_norm)
                adamw.step()
                adamw.zero_grad(set_to_none=True)
                losses.append(value * len(batch))
                done += 1
                if on_batch is not None:
                    on_batch(done, total, value)
        resident.restrict(None)
    resident.model.eval()
    resident.train_only(())
    if not learnt:
        reason = f"no step had a gradient, the loss is {math.fsum(losses) / len(rows):g}: its rows teach nothing"
        raise UpdateRefusedError(client, reason)
    private = resident.read(task.private)
    if task.model.spec.anchors:
        private[ANCHOR] = _anchor(resident, rows, task.model.spec.anchors, generator(optimiser.seed, "anchors", client))
    for name, tensor in private.items():
        # Uploads are checked by whoever receives them; nobody else sees these.
        if not bool(torch.isfinite(tensor).all()):
            raise UpdateRefusedError(client, f"{name} holds values that are NaN or infinite after training")
    seconds = time.perf_counter() - started
    update = ClientUpdate(
        client=client,
        phase=task.phase,
        round=task.round,
        num_examples=len(rows),
        tensors=resident.read(task.upload),
        metrics={"loss": math.fsum(losses) / len(rows)},
    )
    return LocalResult(update, private, done, seconds)


def _anchor(resident: ResidentModel, rows: Encoded, count: int, rng: torch.Generator) -> torch.Tensor:
    """Mean direction of a few train rows, (hidden,), the same rows in every round."""
    chosen = sorted(torch.randperm(len(rows), generator=rng)[:count].tolist())
    return resident.represent(rows.questions(chosen, resident.device)).mean(0).cpu()
