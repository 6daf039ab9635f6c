"""One client's half of a run, which handles requests by training or scoring on the base model."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedlease.client.cache import WorkCache
from fedlease.client.halves import beginning
from fedlease.client.messages import (
    FinalScores,
    Finish,
    Finished,
    Refused,
    Reply,
    Request,
    Score,
    Scored,
    Train,
    Trained,
)
from fedlease.client.private_replies import disclosed, passes_in, refusal
from fedlease.client.private_steps import PrivacyTerms
from fedlease.client.resident import ResidentModel
from fedlease.client.results import Ahead, LocalResult, as_asked, kept_result, sketched
from fedlease.client.store import Private
from fedlease.client.training import OnBatch, TrainsTasks
from fedlease.core.choices import StopMetric
from fedlease.core.types import ClientModel, ClientTask, Tensors
from fedlease.data.federation import ClientData
from fedlease.errors import UpdateRefusedError
from fedlease.peft_plugin.usage import record_usage
from fedlease.tasks.base import Measured
from fedlease.tasks.encoded import Encoded

__all__ = ["LOST", "Client", "ClientWorker"]

LOST = "has lost its private tensors, and continued from what the server sent"


@dataclass(frozen=True)
class Client:
    """A client's rows, raw and tokenised; ``valid`` is None if the run does not use validation rows."""

    data: ClientData
    train: Encoded
    test: Encoded
    valid: Encoded | None = None

    @property
    def num_labels(self) -> int:
        """Number of the client's labels."""
        return len(self.data.labels)


@dataclass
class ClientWorker:
    """One client under one method, on a base model that it may share with others.

    Attributes:
        client: its rows.
        trainer: trains on the base model.
        score_rounds: whether received models are scored before they are trained.
        private: the client's private tensors, replaced by every request.
        cache: results that may be shared with other methods or runs.
        on_batch: called after every optimiser step.
        predictions: of the final model on test rows, as in :class:`~fedlease.tasks.base.Measured`; never in a reply.
        ahead: results of the next request that were computed before it is handled.
        keep: function that stores private tensors.
        terms: privacy guarantee for its rows; None trains and replies without one.
    """

    client: Client
    trainer: TrainsTasks
    score_rounds: bool = True
    private: Private = field(default_factory=Private)
    cache: WorkCache = field(default_factory=WorkCache)
    on_batch: OnBatch | None = None
    predictions: Mapping[str, list[Any]] = field(default_factory=dict)
    ahead: Ahead = field(default_factory=Ahead)
    keep: Callable[[Tensors], Tensors] = dict
    terms: PrivacyTerms | None = None

    def handle(self, request: Request) -> Reply:
        """Handles a request.

        Raises:
            ConfigError: a GPU cannot repeat results bit for bit although the settings ask for it.
        """
        if self.terms is None:
            return self._handle(request)
        rows = len(self.client.train)
        asked = passes_in(request).steps(rows, self.terms.batch_size)
        spent = self.private.spent + asked
        if why := refusal(self.terms, request, rows, spent):
            return Refused(why)
        self.private = self.private.spending(asked)
        return disclosed(self._handle(request), self.terms.spent(rows, spent))

    def _handle(self, request: Request) -> Reply:
        checks = isinstance(request, Score) and request.rows == "valid"
        self.private = self.private.accepted(request.accepted, request.model, best=request.best, undo=checks)
        later = request.best is not None and self.private.at not in (None, request.accepted)
        notes = (LOST,) if request.keeps and (later or not self.private.slots) else ()
        match request:
            case Train():
                try:
                    return replace(self._train(request), notes=notes)
                except UpdateRefusedError as error:
                    return Refused(error.reason)
            case Score() if request.rows == "valid":
                if not self.client.valid:
                    return Refused("it has no validation rows")
                return Scored(self.validate(request.model, request.metric))
            case Score():
                if (ahead := self.ahead.measured) is not None:
                    return Scored(ahead.metrics[self._resident.task.metric])
                self.load(request.model)
                return Scored(self._measure().metrics[self._resident.task.metric])
            case Finish():
                scores = replace(self._finish(request), notes=notes)
                return Finished(scores, self.private.slots if request.hand_over else None)

    def load(self, model: ClientModel) -> int | None:
        """Loads the client's model with its private tensors; returns the index of the chosen candidate, or None."""
        tensors, choice = self.received(model)
        self._resident.load(model, self.client.num_labels, tensors)
        return choice

    def received(self, model: ClientModel) -> tuple[Tensors, int | None]:
        """A model's tensors with private ones and the chosen candidate in their places, and the candidate's index."""
        tensors = self.private.overlay(model)
        if not model.candidates:
            return tensors, None
        if (choice := self.ahead.choice) is None:
            losses = [self._loss(model, {**tensors, **candidate}) for candidate in model.candidates]
            choice = model.choose(losses)
        return {**tensors, **model.chosen(choice)}, choice

    def _loss(self, model: ClientModel, tensors: Tensors) -> float:
        """The mean loss on the client's train rows."""
        self._resident.load(model, self.client.num_labels, tensors)
        return self._resident.task.mean_loss(self._resident, self.client.train, self.trainer.optimiser.threads)

    def validate(self, model: ClientModel, metric: StopMetric) -> float:
        """Scores the client's model on its validation rows: the headline metric, or the mean loss."""
        rows, threads = self.client.valid, self.trainer.optimiser.threads
        assert rows  # clients without any are not asked
        self.load(model)
        task = self._resident.task
        if metric == "loss":
            return task.mean_loss(self._resident, rows, threads)
        return task.measure(self._resident, rows, threads).metrics[task.metric]

    def score_untrained(self, model: ClientModel) -> Measured:
        """Scores the untrained model, unless its first step has done so already."""
        return self._scores(model, model.tensors, first=True)

    @property
    def _resident(self) -> ResidentModel:
        return self.trainer.resident

    def _train(self, request: Train) -> Trained:
        client, begun = self.client, time.perf_counter()
        task = replace(request.task, sketch=None)
        if not task.stages:
            result = kept_result(client.data.id, task, len(client.train), self.private)
            self.private = self.private.trained(request.step, task.model.spec, {})
            return Trained(result.update, None, 0, 0.0, 0.0)
        tensors, choice = self.received(task.model)
        key = self.cache.step_key(client.data.id, task, tensors)
        known = self.cache.get(key, LocalResult)
        loaded = known is None and self.ahead.result is None
        if loaded:
            self._resident.load(task.model, client.num_labels, tensors)
        score, metrics = None, dict[str, float]()
        if self.score_rounds and len(client.test):
            measured = self._scores(
                task.model, tensors, first=task.round <= 1, loaded=loaded, ahead=self.ahead.measured
            )
            score = measured.metrics[self._resident.task.metric]
            metrics = {name: value for name, value in measured.metrics.items() if name != "loss"}
        scored = time.perf_counter() - begun + self.ahead.seconds
        if known is None:
            result = self._trained(task, tensors)
            self.cache.put(key, result)
        else:
            result = as_asked(known, task)
        result = sketched(result, request.task)
        self.private = self.private.trained(
            request.step, task.model.spec, result.private, self.keep, sketched=request.task.sketch is not None
        )
        update = replace(result.update, choice=choice)
        return Trained(update, score, result.steps, result.seconds, scored, known is not None, metrics=metrics)

    def _trained(self, task: ClientTask, tensors: Tensors) -> LocalResult:
        """Trains a task whose model is loaded with these tensors."""
        client = self.client
        if isinstance(ahead := self.ahead.result, UpdateRefusedError):
            raise ahead
        if ahead is not None:
            return ahead
        if task.halves and self.terms is None:
            begin = beginning(task, tensors, self._resident.task, client.train)
            self._resident.load(task.model, client.num_labels, begin)
        return self.trainer.train(client.data.id, task, client.train, self.on_batch)

    def _finish(self, request: Finish) -> FinalScores:
        """Scores the final model on the client's test rows."""
        resident, client, model = self._resident, self.client, request.model
        task, metric = resident.task, resident.task.metric
        if not len(client.test):
            return FinalScores({}, 0, choice=self.load(model))
        bare = self.score_untrained(request.untrained)
        if (ahead := self.ahead.measured) is None:
            choice = self.load(model)
            with record_usage(resident.model) as used:
                measured = self._measure()
        else:
            choice, measured = self.ahead.choice, ahead
        self.predictions = measured.predictions
        own = usage = None
        if model.spec.routed:
            usage, own = used.summary(), self.ahead.alone
            if own is None:
                resident.restrict((model.spec.own,))
                own = self._measure().metrics[metric]
                resident.restrict(None)
        return FinalScores(
            metrics=dict(measured.metrics),
            num_test=len(client.test),
            majority=task.majority_score(client.data.train, client.data.test),
            bare_base=bare.metrics[metric],
            own_expert=own,
            choice=choice,
            usage=usage,
            row_scores=_compact(measured.per_row),
            samples=task.samples(client.data.test, measured.answers, bare.answers) if measured.answers else (),
            confusion=measured.confusion,
        )

    def _scores(
        self,
        model: ClientModel,
        tensors: Tensors,
        *,
        first: bool,
        loaded: bool = False,
        ahead: Measured | None = None,
    ) -> Measured:
        """Scores a model on the client's test rows.

        Args:
            model: spec and names.
            tensors: values to score.
            first: whether the client has the model before its first step, so that its scores are cached.
            loaded: whether the model is loaded.
            ahead: scores that were computed before.
        """
        key = self.cache.score_key(self.client.data.id, model, tensors) if first else None
        known = self.cache.get(key, Measured)
        if known is None:
            if ahead is None and not loaded:
                self._resident.load(model, self.client.num_labels, tensors)
            known = self._measure() if ahead is None else ahead
            self.cache.put(key, known)
        return known

    def _measure(self) -> Measured:
        return self._resident.task.measure(self._resident, self.client.test, self.trainer.optimiser.threads)


def _compact(values: Sequence[float]) -> str | list[float]:
    """One character per row if all scores are 0 or 1, else numbers."""
    if all(value in (0.0, 1.0) for value in values):
        return "".join("01"[int(value)] for value in values)
    return [round(value, 6) for value in values]
