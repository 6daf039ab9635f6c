"""The training loop of a client: batches, loss, backward pass, clipping and step, the same for every transport."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from fedlease.client.gradients import MeanGradients
from fedlease.client.halves import Batch, SecondHalf, batches, parted, split, told_apart
from fedlease.client.private_steps import PrivateSteps, PrivateTraining
from fedlease.client.resident import ResidentModel
from fedlease.client.results import LocalResult, check_learnt, local_result
from fedlease.core.choices import LrSchedule
from fedlease.core.seeds import derive, generator, seed_torch
from fedlease.core.types import ANCHOR, ClientId, ClientTask
from fedlease.errors import UpdateRefusedError
from fedlease.tasks.encoded import Encoded

__all__ = ["OnBatch", "Optimiser", "Progress", "Share", "Trainer", "TrainsTasks", "anchor_rows"]

OnBatch = Callable[[ClientId, int, int, float], None]
"""Function that receives the client, the number of steps done, the total number of steps, and the last loss."""


@dataclass(frozen=True)
class Optimiser:
    """Settings of the AdamW that every stage creates.

    Attributes:
        lr: learning rate.
        weight_decay: of AdamW.
        batch_size: rows per step.
        clip_norm: largest gradient norm, or None.
        threads: number of CPU threads, which changes the order of sums.
        seed: root seed of the run.
        lr_schedule: ``constant``, or ``linear``: of n steps, step i = 0 .. n - 1 has the rate lr (n - i) / n.
        momentum: beta_1 of AdamW.
    """

    lr: float
    weight_decay: float
    batch_size: int
    clip_norm: float | None
    threads: int
    seed: int
    lr_schedule: LrSchedule = "constant"
    momentum: float = 0.9

    def rate(self, total: int) -> Callable[[int], float]:
        """Function of a step's number, from 0, that returns its factor of ``lr``, for a stage of ``total`` steps."""
        return lambda step: 1 - step / total if self.lr_schedule == "linear" else 1.0

    def steps_per_epoch(self, rows: Encoded, *, halves: bool = False) -> int:
        """Number of batches in one pass over rows; with ``halves``, no batch has rows of both halves."""
        sizes = ((len(rows) + 1) // 2, len(rows) // 2) if halves else (len(rows),)
        return sum(math.ceil(size / self.batch_size) for size in sizes)


@dataclass(frozen=True)
class Share:
    """One client's share of the training rows.

    Attributes:
        rows: tokenised rows.
        shuffle: generator for the order of the rows.
        parameters: trained by the client's batches.
        head: head modules that are set before each of its batches; {} keeps the loaded ones.
        add_term: adds the gradient of the task's term to that of a batch.
        gradients: collects the gradients of batches, before the term is added.
        private: samples and gradients under differential privacy; None for plain batches.
        halves: rows of either half; empty without halves.
        second: tracks the part of the second half; None without halves.
    """

    rows: Encoded
    shuffle: torch.Generator
    parameters: Sequence[nn.Parameter]
    head: Mapping[str, nn.Module] = field(default_factory=dict)
    add_term: Callable[[], None] | None = None
    gradients: MeanGradients | None = None
    private: PrivateSteps | None = None
    halves: Sequence[Sequence[int]] = ()
    second: SecondHalf | None = None

    def batches(self, batch_size: int) -> list[Batch]:
        """The batches of one pass."""
        if self.private is not None:
            return self.private.batches()
        return batches(self.rows.lengths, self.halves, batch_size, self.shuffle)


@dataclass
class Progress:
    """Progress over all stages of a task.

    Attributes:
        total: number of steps of all stages.
        on_batch: called after every step, or None.
        done: number of steps so far.
        learnt: whether any step had a gradient.
    """

    total: int
    on_batch: OnBatch | None = None
    done: int = 0
    learnt: bool = False


class TrainsTasks(Protocol):
    """A trainer of tasks on the base model: :class:`Trainer`, or one that pools the rows of all clients."""

    resident: ResidentModel
    optimiser: Optimiser

    def train(self, client: ClientId, task: ClientTask, rows: Encoded, on_batch: OnBatch | None = None) -> LocalResult:
        """See :meth:`Trainer.train`."""


@dataclass
class Trainer:
    """Trains the adapter and head that are loaded in the base model.

    Attributes:
        resident: the base model.
        optimiser: settings of the optimiser.
        privacy: makes training differentially private; None trains without privacy.
    """

    resident: ResidentModel
    optimiser: Optimiser
    privacy: PrivateTraining | None = None

    def train(self, client: ClientId, task: ClientTask, rows: Encoded, on_batch: OnBatch | None = None) -> LocalResult:
        """Trains the stages of a task, whose model and private tensors must be loaded.

        Args:
            client: id of the client.
            task: what to train and what to upload.
            rows: the client's tokenised train rows.
            on_batch: called after every step.

        Raises:
            UpdateRefusedError: the loss is NaN or infinite, or no step had a gradient. The result must not be used, as
                it would be averaged as if it had been learnt.
            ConfigError: a GPU cannot repeat results bit for bit although the settings ask for it.
        """
        with self.resident.repeatable():
            return self._train(client, task, rows, on_batch)

    def _train(self, client: ClientId, task: ClientTask, rows: Encoded, on_batch: OnBatch | None) -> LocalResult:
        resident, seed = self.resident, self.optimiser.seed
        torch.set_num_threads(self.optimiser.threads)
        started = time.perf_counter()
        per_epoch = self.optimiser.steps_per_epoch(rows, halves=task.halves)
        progress = Progress(sum(stage.epochs for stage in task.stages) * per_epoch, on_batch)
        loss, term = 0.0, task.term
        gradients = MeanGradients(resident.parameters, task.gradient_names) if task.gradients else None
        add_term = None if term is None else term.adder(resident.parameters, task.trainable & task.upload)
        halves = split(rows, seed, client, by_label=self.privacy is None) if task.halves else ()
        second = SecondHalf([resident.parameters[name] for name in told_apart(task)]) if task.halves else None
        try:
            for number, stage in enumerate(task.stages):
                parameters = resident.train_only(stage.trainable)
                resident.restrict(stage.experts)
                draw = (client, task.round, number)
                seed_torch(derive(seed, "dropout", *draw), resident.device)
                private = None if self.privacy is None else self.privacy.steps(task, stage, rows, draw, halves)
                if second is not None:
                    second.fresh()
                share = Share(
                    rows,
                    generator(seed, "batches", *draw),
                    parameters if private is None else private.parameters,
                    add_term=add_term,
                    gradients=gradients,
                    private=private,
                    halves=halves,
                    second=second,
                )
                loss = self.fit({client: share}, stage.epochs, progress)[client]
        finally:
            resident.at_rest()
        tensors = resident.read(task.trainable | task.upload)
        if gradients is not None:
            tensors |= gradients.read()
        if second is not None:
            parts = [part.cpu() for part in second.part]
            tensors = parted(tensors, dict(zip(told_apart(task), parts, strict=True)))
        if task.model.spec.anchors:
            questions = rows.questions(anchor_rows(client, rows, task.model.spec.anchors, seed), resident.device)
            tensors[ANCHOR] = resident.represent(questions).mean(0).cpu()
        check_learnt(client, task, tensors, loss, learnt=progress.learnt)
        seconds = time.perf_counter() - started
        return local_result(client, task, len(rows), tensors, loss, progress.done, seconds)

    def fit(
        self,
        shares: Mapping[ClientId, Share],
        epochs: int,
        progress: Progress,
        order: torch.Generator | None = None,
    ) -> dict[ClientId, float]:
        """Makes passes over the rows of all shares with one optimiser.

        Args:
            shares: client -> its share; a batch has rows of one client.
            epochs: number of passes.
            progress: of the task, updated by every step.
            order: generator for the order of all batches; None keeps the order of the shares.

        Returns:
            Client -> mean loss over its rows in the last pass.

        Raises:
            UpdateRefusedError: the loss is NaN or infinite; the trained tensors must be discarded.
        """
        trained = {id(parameter): parameter for share in shares.values() for parameter in share.parameters}
        options = self.optimiser
        betas = options.momentum, 0.999
        adamw = torch.optim.AdamW(trained.values(), options.lr, betas, weight_decay=options.weight_decay, fused=True)
        total = epochs * sum(
            options.steps_per_epoch(share.rows, halves=bool(share.halves)) for share in shares.values()
        )
        schedule = LambdaLR(adamw, options.rate(total))
        self.resident.model.train()
        losses: dict[ClientId, list[float]] = {}
        for epoch in range(epochs):
            losses = {client: [] for client in shares}
            steps = self._steps(shares, schedule, progress, order)
            for client, size, loss in _one_behind(steps):
                value = float(loss)
                progress.done += 1
                if not math.isfinite(value):
                    raise UpdateRefusedError(client, f"loss is {value} in epoch {epoch + 1}, step {progress.done}")
                losses[client].append(value * size)
                if progress.on_batch is not None:
                    progress.on_batch(client, progress.done, progress.total, value)
        return {client: math.fsum(values) / len(shares[client].rows) for client, values in losses.items()}

    def _steps(
        self,
        shares: Mapping[ClientId, Share],
        schedule: LambdaLR,
        progress: Progress,
        order: torch.Generator | None,
    ) -> Iterator[tuple[ClientId, int, Tensor]]:
        """Makes one pass; yields the client, the number of rows and the loss, a scalar on the device, of every step."""
        size = self.optimiser.batch_size
        steps = [(client, *batch) for client, share in shares.items() for batch in share.batches(size)]
        if order is not None:
            steps = [steps[i] for i in torch.randperm(len(steps), generator=order).tolist()]
        for client, half, batch in steps:
            share = shares[client]
            self.resident.use_head(share.head)
            if share.private is None:
                loss = self.resident.task.batch_loss(self.resident, share.rows, batch)
                loss.backward()
            else:
                loss = share.private.backward(batch)
            # Once a step has had a gradient, usually the first one, this check is skipped.
            progress.learnt = progress.learnt or any(
                p.grad is not None and bool(p.grad.any()) for p in share.parameters
            )
            if share.gradients is not None:
                share.gradients.collect()
            if share.add_term is not None:
                share.add_term()
            if self.optimiser.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(share.parameters, self.optimiser.clip_norm)
            schedule.optimizer.step()
            if share.private is not None:
                share.private.stepped()
            if share.second is not None:
                share.second.follow(schedule.optimizer, [half] * len(share.second.part))
            schedule.optimizer.zero_grad(set_to_none=True)
            schedule.step()
            yield client, len(batch), loss.detach()


def _one_behind(
    steps: Iterator[tuple[ClientId, int, Tensor]],
) -> Iterator[tuple[ClientId, int, Tensor]]:
    """Yields every item after the next one has been made, so that reading a loss does not wait for the current step."""
    waiting = next(steps, None)
    while waiting is not None:
        coming = next(steps, None)
        yield waiting
        waiting = coming


def anchor_rows(client: ClientId, rows: Encoded, count: int, seed: int) -> list[int]:
    """Indices of the train rows whose mean direction is a client's anchor, the same in every round."""
    rng = generator(seed, "anchors", client)
    return sorted(torch.randperm(len(rows), generator=rng)[:count].tolist())
