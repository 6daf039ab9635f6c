"""Training of several clients in one step: their rows share a batch, their adapters and optimisers are side by side.

Every client is trained as :class:`fedlease.client.training.Trainer` trains it alone: on its own rows in its own order,
with its own loss, clipping, moments and number of steps. Results are equal up to rounding, since matrix products have
other shapes. On a CPU, every client also has its own dropout. On an accelerator, and for dropout within the base
(``train.base_dropout``), one generator draws for all stacked clients, so that dropout depends on which clients these
are.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fedlease.client.block import Block
from fedlease.client.halves import Batch, batches, parted, split, told_apart
from fedlease.client.resident import ResidentModel
from fedlease.client.results import LocalResult, check_learnt, local_result
from fedlease.client.stacked_model import StackedModel, slots_of, to_slots
from fedlease.client.stacked_steps import StackedAdamW, stacked_term
from fedlease.client.training import OnBatch, Optimiser, anchor_rows
from fedlease.core.seeds import derive, generator, seed_torch
from fedlease.core.types import ANCHOR, AdapterSpec, ClientId, ClientTask, Stage, Tensors
from fedlease.errors import UpdateRefusedError
from fedlease.tasks.base import StackingTask
from fedlease.tasks.encoded import Encoded, on_device
from fedlease.tasks.stacking import filled, of_rows

__all__ = ["Job", "StackedTrainer", "slots_only"]


@dataclass(frozen=True)
class Job:
    """The training of one client.

    Attributes:
        client: id of the client.
        task: to train.
        tensors: of the task's model, including private tensors.
        rows: tokenised train rows.
        num_labels: number of the client's labels.
        on_batch: receives the client's steps, once per epoch.
    """

    client: ClientId
    task: ClientTask
    tensors: Tensors
    rows: Encoded
    num_labels: int
    on_batch: OnBatch | None = None

    def draw(self, stage: int) -> tuple[str, int, int]:
        """The key of the random numbers of a stage, the same as when the client is trained alone."""
        return self.client, self.task.round, stage


def slots_only(stage: Stage, order: Sequence[int]) -> tuple[int, ...] | None:
    """The slots of the experts that a stage sums instead of using the mixer; ``order`` has the expert of every slot."""
    return None if stage.experts is None else tuple(order.index(expert) for expert in stage.experts)


@dataclass
class _Course:
    """The training of one client over all stages.

    Attributes:
        job: of the client.
        names: name of a tensor -> its name by slot.
        tensors: current values, by slot.
        begin: index of its first row among the rows of all clients.
        lengths: number of tokens of every row.
        halves: rows of either half; empty without halves.
        batches: of the current stage.
        per_epoch: number of steps of one pass.
        done: number of steps of earlier stages.
        learnt: whether any step had a gradient.
        loss: mean over its rows in the last pass.
        anchor: mean direction of some of its rows, (hidden,), if the task asks for it.
        gradients: sums of gradients over all steps, by slot; {} if the task does not ask for mean gradients.
        second: the part that the second half has added to every B, by slot; {} without halves.
        refused: the reason why its result cannot be used.
    """

    job: Job
    names: Mapping[str, str]
    tensors: Tensors
    begin: int
    lengths: Sequence[int]
    per_epoch: int
    halves: Sequence[Sequence[int]] = ()
    batches: Sequence[Batch] = ()
    done: int = 0
    learnt: bool = False
    loss: float = 0.0
    anchor: Tensor | None = None
    gradients: Tensors = field(default_factory=dict)
    second: Tensors = field(default_factory=dict)
    refused: UpdateRefusedError | None = None

    def read(self, begin: int, losses: Sequence[float]) -> None:
        """Takes the losses of steps of the current stage, the first of which has the number ``begin``, from 0."""
        job = self.job
        total = self.per_epoch * sum(stage.epochs for stage in job.task.stages)
        for step, loss in enumerate(losses[: len(self.batches) - begin], begin):
            done = self.done + step + 1
            if self.refused is None and not math.isfinite(loss):
                reason = f"loss is {loss} in epoch {step // self.per_epoch + 1}, step {done}"
                self.refused = UpdateRefusedError(job.client, reason)
            if self.refused is None and job.on_batch is not None:
                job.on_batch(job.client, done, total, loss)

    def end(self, losses: Sequence[float], values: Tensors, sums: Tensors, second: Tensors, *, learnt: bool) -> None:
        """Takes the results of a stage: losses of its last pass, trained values, sums of gradients, second parts."""
        last = zip(losses, self.batches[-self.per_epoch :], strict=True)
        self.loss = math.fsum(loss * len(batch) for loss, (_, batch) in last) / len(self.job.rows)
        self.tensors = {**self.tensors, **values}
        self.gradients = {**self.gradients, **sums}  # no tensor of an adapter is trained in two stages
        self.second = {**self.second, **second}
        self.learnt = self.learnt or learnt
        self.done += len(self.batches)

    def outcome(self, seconds: float) -> LocalResult | UpdateRefusedError:
        """The result under the client's own names, or the refusal if it has none."""
        task = self.job.task
        if self.refused is not None:
            return self.refused
        tensors = {name: self.tensors[self.names[name]] for name in sorted(task.trainable | task.upload)}
        if self.halves:
            tensors = parted(tensors, {name: self.second[self.names[name]] for name in told_apart(task)})
        for name, gradient in task.gradient_names.items():
            tensors[gradient] = self.gradients[self.names[name]] / self.done
        if self.anchor is not None:
            tensors[ANCHOR] = self.anchor
        count = len(self.job.rows)
        try:
            check_learnt(self.job.client, task, tensors, self.loss, learnt=self.learnt)
        except UpdateRefusedError as error:
            return error
        return local_result(self.job.client, task, count, tensors, self.loss, self.done, seconds)


@dataclass
class StackedTrainer:
    """Trains jobs of one layout at once, see :func:`fedlease.client.stacked.layout`.

    Attributes:
        resident: the base model.
        optimiser: settings of the optimiser.
    """

    resident: ResidentModel
    optimiser: Optimiser
    _model: StackedModel | None = field(default=None, repr=False)

    def train(self, jobs: Sequence[Job]) -> dict[ClientId, LocalResult | UpdateRefusedError]:
        """Trains jobs; a client that diverges does not affect the others.

        Args:
            jobs: at least one, all of one layout.

        Returns:
            Client -> its result or refusal, as of :meth:`fedlease.client.training.Trainer.train`.

        Raises:
            RowsNotFirstError: the architecture cannot compute clients together.
            ConfigError: as for one client.
        """
        torch.set_num_threads(self.optimiser.threads)
        started = time.perf_counter()
        courses = self._courses(jobs)
        rows = courses[0].job.rows.followed_by([course.job.rows for course in courses[1:]])
        model = self.model(jobs[0].task.model.spec)
        with self.resident.repeatable(), model.using(rows, training=True):
            for number in range(len(jobs[0].task.stages)):
                self._stage(model, courses, rows, number)
            if jobs[0].task.model.spec.anchors:
                self._add_anchors(model, courses)
        seconds = (time.perf_counter() - started) / len(jobs)
        return {course.job.client: course.outcome(seconds) for course in courses}

    def model(self, spec: AdapterSpec) -> StackedModel:
        """The model for several clients, made on first use; all specs adapt the same modules."""
        if self._model is None:
            self._model = StackedModel(self.resident, spec.target_modules)
        return self._model

    def _courses(self, jobs: Sequence[Job]) -> list[_Course]:
        """The clients, those with most steps first, so that clients that still train are the first rows of a block."""
        steps = {job.client: self.optimiser.steps_per_epoch(job.rows, halves=job.task.halves) for job in jobs}
        courses, begin = [], 0
        for job in sorted(jobs, key=lambda job: (-steps[job.client], job.client)):
            names = to_slots(job.tensors.keys(), job.task.model.spec)
            tensors = {names[name]: tensor for name, tensor in job.tensors.items()}
            halves = split(job.rows, self.optimiser.seed, job.client) if job.task.halves else ()
            courses.append(_Course(job, names, tensors, begin, job.rows.lengths, steps[job.client], halves))
            begin += len(job.rows)
        return courses

    def _stage(self, model: StackedModel, courses: Sequence[_Course], rows: Encoded, number: int) -> None:
        job, options, device = courses[0].job, self.optimiser, model.device
        stage, spec = job.task.stages[number], job.task.model.spec
        labels, only = [course.job.num_labels for course in courses], slots_only(stage, slots_of(spec))
        trainable = [courses[0].names[name] for name in sorted(stage.trainable)]
        model.load(spec, [course.tensors for course in courses], labels, trainable, only)
        for course in courses:
            shuffle = generator(options.seed, "batches", *course.job.draw(number))
            passes = [batches(course.lengths, course.halves, options.batch_size, shuffle) for _ in range(stage.epochs)]
            course.batches = [batch for one in passes for batch in one]
        self._seed_dropout(model, courses, number)
        totals = [len(course.batches) for course in courses]
        second = _parts(courses, model.trained) if job.task.halves else None
        adamw = StackedAdamW(model.trained.values, totals, options, second)
        jobs = [course.job for course in courses]
        received = [other.tensors for other in jobs]
        add_term = stacked_term([other.task for other in jobs], [c.names for c in courses], received, model.trained)
        losses = torch.zeros(totals[0], len(courses), device=device)
        sums = torch.zeros_like(model.trained.values) if job.task.gradients else None
        learnt = torch.zeros(len(courses), dtype=torch.bool, device=device)
        read, active = 0, 0
        for step in range(totals[0]):
            if active != (left := sum(total > step for total in totals)):
                active = left
                model.narrow(active)
            loss = self._loss(model, courses[:active], rows, step)
            gradients = model.gradients(loss)
            losses[step, :active] = loss.detach()
            learnt[:active] |= torch.linalg.vector_norm(gradients, math.inf, 1) != 0
            if sums is not None:
                sums[:active] += gradients
            if add_term is not None:
                add_term(gradients)
            if options.clip_norm is not None:
                norms = torch.linalg.vector_norm(gradients, 2, 1, keepdim=True)
                gradients *= (options.clip_norm / (norms + 1e-6)).clamp(max=1.0)
            adamw.step(gradients, [course.batches[step][0] for course in courses[:active]])
            if (step + 1) % courses[0].per_epoch == 0:
                # The only place where the CPU waits for an accelerator.
                for course, values in zip(courses, losses[read : step + 1].T.tolist(), strict=True):
                    course.read(read, values)
                read = step + 1
        found, by_client, values = learnt.tolist(), losses.T.tolist(), model.trained.read()
        of_steps = [{}] * len(courses) if sums is None else model.trained.read(sums)
        parts = [{}] * len(courses) if adamw.second is None else model.trained.read(adamw.second)
        for course, total, own_losses, tensors, collected, part, did in zip(
            courses, totals, by_client, values, of_steps, parts, found, strict=True
        ):
            course.end(own_losses[total - course.per_epoch : total], tensors, collected, part, learnt=did)

    def _add_anchors(self, model: StackedModel, courses: Sequence[_Course]) -> None:
        spec, seed = courses[0].job.task.model.spec, self.optimiser.seed
        rows = [c.job.rows.take(anchor_rows(c.job.client, c.job.rows, spec.anchors, seed)) for c in courses]
        model.model.eval()
        model.load(spec, [course.tensors for course in courses], [course.job.num_labels for course in courses])

        def units(some: Encoded, indices: Sequence[int]) -> Sequence[Tensor]:
            return list(model.represent(some.questions(indices, model.device)).cpu())

        for course, found in zip(courses, of_rows(model, rows, lambda own: [range(len(own))], units), strict=True):
            course.anchor = torch.stack(found).mean(0)

    def _loss(self, model: StackedModel, courses: Sequence[_Course], rows: Encoded, step: int) -> Tensor:
        """Every client's loss of one step, (clients,)."""
        task = self.resident.task
        assert isinstance(task, StackingTask)
        now = [course.batches[step][1] for course in courses]
        indices, most = filled(now, [course.begin for course in courses])
        shares = np.zeros((len(now), most), np.float32)  # rows that only pad a batch have weight 0
        for own, course, batch in zip(shares, courses, now, strict=True):
            own[: len(batch)] = task.row_shares(course.job.rows, batch)
        model.next_batch([(len(b), max(c.lengths[i] for i in b)) for c, b in zip(courses, now, strict=True)])
        losses = task.row_losses(model, rows, indices).view(shares.shape)
        return (losses * on_device(shares, model.device)).sum(1)

    def _seed_dropout(self, model: StackedModel, courses: Sequence[_Course], number: int) -> None:
        seed, jobs = self.optimiser.seed, [course.job for course in courses]
        everyone = [part for job in sorted(jobs, key=lambda job: job.client) for part in job.draw(number)]
        seed_torch(derive(seed, "dropout", "stacked", *everyone), model.device)
        on_cpu = model.device.type == "cpu"
        model.plan.draws = [generator(seed, "dropout", *job.draw(number)) for job in jobs if on_cpu]


def _parts(courses: Sequence[_Course], trained: Block) -> Tensor:
    """The parts that the second half has added to every client's tensors in earlier stages, (clients, width)."""
    nothing = [{name: torch.zeros_like(course.tensors[name]) for name in trained.names} for course in courses]
    parts = [{**zeros, **course.second} for zeros, course in zip(nothing, courses, strict=True)]
    return Block(parts, trained.names, trained.values.device).values
