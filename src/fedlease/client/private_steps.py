"""Steps of differentially private training: sampled rows, a clipped gradient of each, and noise (core/row_noise.py).

Every row is computed like a client of its own (:mod:`fedlease.client.stacked_layers`): the frozen base computes the
whole batch, while A, B, router and head are expanded to one view per row, whose gradient is the row's. The memory for
gradients is that of the trained tensors in float32 times the rows of a batch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedlease.client.halves import Batch, in_turn
from fedlease.client.head_inputs import HeadInputs
from fedlease.client.resident import ResidentModel
from fedlease.client.stacked_model import StackedModel, slots_of, to_slots
from fedlease.core.row_noise import (
    Amount,
    Draws,
    bounded_sum,
    clipped_apart,
    noisy_mean,
    poisson_batch,
    sampling,
    samplings,
)
from fedlease.core.types import ClientTask, Stage
from fedlease.privacy.accountant import epsilon_of, noise_for
from fedlease.privacy.randomness import draws_of
from fedlease.tasks.base import StackingTask
from fedlease.tasks.encoded import Encoded

__all__ = ["PrivacyTerms", "PrivateSteps", "PrivateTraining"]


@dataclass(frozen=True)
class PrivacyTerms:
    """The privacy guarantee for any single row of a client, and the training that must keep it.

    Attributes:
        epsilon: of all training of the client in the run.
        delta: of all training of the client in the run.
        clip: C, the largest norm of a row's gradient.
        batch_size: mean number of rows in a step.
        passes: method -> the most passes that it asks for.
        seed: of noise and samples; None draws them from the operating system.
    """

    epsilon: float
    delta: float
    clip: float
    batch_size: int
    passes: Mapping[str, Amount]
    seed: int | None

    def noise(self, rows: int) -> float:
        """Sigma in units of ``clip`` for a client with this many train rows, enough for all methods of the run.

        Raises:
            ConfigError: as :func:`fedlease.privacy.accountant.noise_for`.
        """
        return noise_for(self.epsilon, samplings(rows, self.batch_size, self.planned(rows)), self.delta)

    def planned(self, rows: int) -> Amount:
        """The steps for which the noise of a client with this many train rows is enough."""
        return sum(self.passes.values(), Amount()).steps(rows, self.batch_size)

    def spent(self, rows: int, steps: Amount) -> float:
        """Epsilon spent by these steps of a client with this many train rows."""
        return epsilon_of(self.noise(rows), samplings(rows, self.batch_size, steps), self.delta)


@dataclass
class PrivateSteps:
    """The steps of one stage.

    Attributes:
        training: provides the model.
        rows: train rows of the client.
        task: that is trained.
        stage: of the task.
        noise: sigma.
        draws: source of samples and noise.
        halves: rows of either half; empty without halves.
    """

    training: "PrivateTraining"
    rows: Encoded
    task: ClientTask
    stage: Stage
    noise: float
    draws: Draws
    halves: Sequence[Sequence[int]] = ()
    _learning: dict[str, nn.Parameter] = field(init=False, repr=False)
    _inputs: HeadInputs | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        plain, inputs = self.training.resident.parameters, self.training.inputs
        self._inputs = inputs if inputs is not None and inputs.among(self.stage.trainable) else None
        self._learning = {name: plain[name] for name in sorted(self.stage.trainable)}
        if self._inputs is not None:
            with torch.no_grad():
                standard = self._inputs.standard(plain)
            self._learning |= {name: nn.Parameter(value) for name, value in standard.items()}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the optimiser steps, in the order of names; :meth:`stepped` brings them to the model."""
        return list(self._learning.values())

    def stepped(self) -> None:
        """Sets the head of the model to the values after a step."""
        if self._inputs is not None:
            with torch.no_grad():
                for name, value in self._inputs.plain(self._learning).items():
                    self.training.resident.parameters[name].copy_(value)

    def batches(self) -> list[Batch]:
        """The samples of one pass."""
        drawn = []
        for rows in self.halves or (range(len(self.rows)),):
            rate, count = sampling(len(rows), self.training.terms.batch_size)
            drawn.append([[rows[i] for i in poisson_batch(len(rows), rate, self.draws)] for _ in range(count)])
        return in_turn(drawn)

    def backward(self, batch: Sequence[int]) -> Tensor:
        """Sets the gradients of the trained parameters to the noisy mean of a sample; returns its mean loss, a scalar.

        A row whose loss or gradient is not finite counts as 0.
        """
        terms, learning = self.training.terms, self._learning
        sums = {name: torch.zeros_like(parameter) for name, parameter in learning.items()}
        parts = clipped_apart(learning)
        losses = [torch.zeros((), device=self.training.resident.device)]
        lengths = self.rows.lengths
        by_length = sorted(batch, key=lambda row: lengths[row])
        # A sample can be larger than a batch, and memory is planned for a batch.
        for begin in range(0, len(batch), terms.batch_size):
            chunk = by_length[begin : begin + terms.batch_size]
            loss, gradients = self.training.row_gradients(self.rows, chunk, self.task, self.stage)
            losses.append(loss.nan_to_num(0.0, 0.0, 0.0).sum())
            if self._inputs is not None:
                gradients = self._inputs.gradients(gradients)
            for names in parts:
                bounded = bounded_sum([gradients[name] for name in names], terms.clip / math.sqrt(len(parts)))
                for name, total in zip(names, bounded, strict=True):
                    sums[name] += total
        expected = min(terms.batch_size, *map(len, self.halves or (self.rows,)))
        for name, parameter in learning.items():
            parameter.grad = noisy_mean(
                sums[name], noise=self.noise, clip=terms.clip, expected=expected, draws=self.draws
            )
        return torch.stack(losses).sum() / max(1, len(batch))


@dataclass
class PrivateTraining:
    """Differentially private training on the resident model.

    Attributes:
        resident: the base model, with a task that gives the loss of every row; its adapter is unloaded.
        terms: of the clients.
        modules: paths of the adapted modules.
        inputs: of heads, whose first linear layer is trained in standard coordinates; None trains it as it is.
    """

    resident: ResidentModel
    terms: PrivacyTerms
    modules: Sequence[str]
    inputs: HeadInputs | None = None
    _model: StackedModel = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._model = StackedModel(self.resident, self.modules)

    def steps(
        self,
        task: ClientTask,
        stage: Stage,
        rows: Encoded,
        draw: tuple[str | int, ...],
        halves: Sequence[Sequence[int]] = (),
    ) -> PrivateSteps:
        """The steps of a stage.

        Args:
            task: its model must be loaded.
            stage: of the task.
            rows: the client's train rows.
            draw: key of the random numbers besides the seed.
            halves: rows of either half, whose sizes differ by at most 1; empty without halves.
        """
        draws = draws_of(self.terms.seed, "privacy", *draw)
        return PrivateSteps(self, rows, task, stage, self.terms.noise(len(rows)), draws, halves)

    def row_gradients(
        self, rows: Encoded, batch: Sequence[int], task: ClientTask, stage: Stage
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and gradients of every row of a batch, with the model that is loaded.

        Args:
            rows: of the client.
            batch: indices of b rows, at least one.
            task: its model must be loaded.
            stage: of the task.

        Returns:
            The losses, (b,), and name -> gradients, (b, *shape), for every tensor that the stage trains.
        """
        resident, spec, model = self.resident, task.model.spec, self._model
        assert isinstance(resident.task, StackingTask)
        names = to_slots(resident.parameters.keys(), spec)
        values: dict[str, nn.Parameter] = {names[name]: value for name, value in resident.parameters.items()}
        order = slots_of(spec)
        only = None if stage.experts is None else tuple(order.index(expert) for expert in stage.experts)
        trained = [names[name] for name in sorted(stage.trainable)]
        with model.using(rows, training=True):
            leaves = model.spread(spec, values, len(batch), resident.num_labels, trained, only)
            losses = resident.task.row_losses(model, rows, batch)
            shares = losses.new_tensor([resident.task.row_shares(rows, [row])[0] for row in batch])
            losses = losses * shares
            found = torch.autograd.grad(losses.sum(), [leaves[name] for name in trained], allow_unused=True)
            whole = [
                torch.zeros_like(leaves[name]) if gradient is None else gradient
                for name, gradient in zip(trained, found, strict=True)
            ]
        return losses.detach(), dict(zip(sorted(stage.trainable), whole, strict=True))
