"""The client's half of a run: takes a task, trains, gives back; scores its own rows. The same in every engine."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedlease.client.cache import WorkCache
from fedlease.client.candidates import choose
from fedlease.client.resident import ResidentModel
from fedlease.client.store import ClientStore
from fedlease.client.training import LocalResult, OnBatch, Optimiser, local_step
from fedlease.core.codec import serialisable
from fedlease.core.types import ANCHOR, ClientModel, ClientTask, ClientUpdate, Tensors
from fedlease.data.federation import ClientData
from fedlease.peft_plugin.usage import record_usage
from fedlease.tasks.base import Encoded, Measured

__all__ = ["Answer", "Client", "ClientWork", "FinalScores"]


@dataclass(frozen=True)
class Client:
    """A client's rows as the engine needs them."""

    data: ClientData
    train: Encoded
    test: Encoded

    @property
    def num_labels(self) -> int:
        """Size of its label list."""
        return len(self.data.labels)


@serialisable
@dataclass(frozen=True)
class Answer:
    """What a client gives back for one task.

    Attributes:
        update: for the method.
        score: of the model received, by the headline metric on the client's test rows; None where rounds are not
            scored.
        steps: optimiser steps.
        train_seconds: of training.
        evaluate_seconds: of scoring, and of the choice among candidates.
        reused: whether the work had been done before, by another method with the same first step.
        notes: plain sentences, such as what the client has lost.
    """

    update: ClientUpdate
    score: float | None
    steps: int
    train_seconds: float
    evaluate_seconds: float
    reused: bool = False
    notes: tuple[str, ...] = ()


@serialisable
@dataclass(frozen=True)
class FinalScores:
    """How a client's personalised model does on the client's own test rows at the end.

    Attributes:
        metrics: name -> mean over the rows; empty, as all that follows from rows, for a client without test rows.
        num_test: test rows.
        majority: headline metric of the most frequent train label or answer.
        bare_base: headline metric of the untrained model.
        own_expert: headline metric of the own expert alone; None where nothing is routed.
        choice: candidate taken, or None.
        usage: experts used, by module; None where nothing is routed.
        row_scores: headline metric per row: one character each where all are 0 or 1, else numbers.
        samples: some rows with what was written; empty for classification.
        notes: plain sentences, such as what the client has lost.
    """

    metrics: Mapping[str, float]
    num_test: int
    majority: float | None = None
    bare_base: float | None = None
    own_expert: float | None = None
    choice: int | None = None
    usage: Mapping[str, Any] | None = None
    row_scores: str | Sequence[float] = ""
    samples: Sequence[Mapping[str, str]] = ()
    notes: tuple[str, ...] = ()

    def row(self, task: str) -> dict[str, Any]:
        """The client's entry under ``per_client`` in ``summary.json``; ``task``: what its rows are about."""
        return {
            **self.metrics,
            "num_test": self.num_test,
            "task": task,
            **({} if self.majority is None else {"majority": self.majority}),
            **({} if self.bare_base is None else {"bare_base": self.bare_base}),
            **({} if self.choice is None else {"choice": self.choice}),
            **({} if self.own_expert is None else {"own_expert": self.own_expert}),
        }


@dataclass
class ClientWork:
    """Work of clients on one resident base model, one after another.

    Attributes:
        resident: the base model.
        optimiser: of local training.
        score_rounds: whether received models are scored before they are trained.
        store: what clients keep.
        cache: results of first steps, and scores of untrained models.
    """

    resident: ResidentModel
    optimiser: Optimiser
    score_rounds: bool = True
    store: ClientStore = field(default_factory=ClientStore)
    cache: WorkCache = field(default_factory=WorkCache)

    def load(self, client: Client, model: ClientModel) -> int | None:
        """Puts a client's model in place, private tensors laid over; of candidates its choice, which is returned."""
        tensors, choice = self._received(client, model)
        self.resident.load(model, client.num_labels, tensors)
        return choice

    def measure(self, client: Client) -> Measured:
        """What is loaded now, on the client's own test rows."""
        return self.resident.task.measure(self.resident, client.test, self.optimiser.threads)

    def score(self, client: Client, model: ClientModel) -> float:
        """The client's personalised model on its own test rows, by the headline metric."""
        self.load(client, model)
        return self.measure(client).metrics[self.resident.task.metric]

    def train(self, client: Client, task: ClientTask, on_batch: OnBatch | None = None) -> tuple[Answer, Tensors]:
        """Scores the received model, then trains it.

        Returns:
            What goes to the server, and the private tensors, which the caller keeps once the update is accepted.

        Raises:
            UpdateRefusedError: training diverged.
        """
        begun = time.perf_counter()
        tensors, choice = self._received(client, task.model)
        key = self.cache.key(client.data.id, task, tensors)
        kept = self.cache.get(key)
        if kept is None:
            self.resident.load(task.model, client.num_labels, tensors)
        metrics = self.on_receipt(client) if kept is None else kept[1]
        spent = time.perf_counter() - begun
        if kept is None:
            result = local_step(self.resident, client.data.id, task, client.train, self.optimiser, on_batch)
            self.cache.put(key, (result, metrics))
        else:
            update = replace(kept[0].update, phase=task.phase, tensors=_only(kept[0], task.upload))
            private = _only(kept[0], task.private | ({ANCHOR} & {*kept[0].private}))
            result = replace(kept[0], update=update, private=private)
        update = replace(result.update, choice=choice)
        score = self.headline(metrics)
        return Answer(update, score, result.steps, result.seconds, spent, kept is not None), result.private

    def on_receipt(self, client: Client) -> dict[str, float]:
        """Scores of what is loaded, before it is trained; empty where rounds are not scored, or it has no test rows."""
        return dict(self.measure(client).metrics) if self.score_rounds and len(client.test) else {}

    def headline(self, metrics: Mapping[str, float]) -> float | None:
        """The headline metric among some, None where there are none."""
        return metrics[self.resident.task.metric] if metrics else None

    def bare(self, client: Client, untrained: ClientModel) -> Measured:
        """The untrained model's scores; the same for every method of a run, so they are computed once."""
        known = self.cache.bare
        if client.data.id not in known:
            self.resident.load(untrained, client.num_labels)
            known[client.data.id] = self.measure(client)
        return known[client.data.id]

    def finish(self, client: Client, model: ClientModel, untrained: ClientModel) -> FinalScores:
        """The final scores, by the evaluation contract."""
        task, metric = self.resident.task, self.resident.task.metric
        if not len(client.test):
            return FinalScores({}, 0, choice=self.load(client, model))
        bare = self.bare(client, untrained)
        choice = self.load(client, model)
        with record_usage(self.resident.model) as used:
            measured = self.measure(client)
        own = usage = None
        if model.spec.num_experts > 1:
            usage = used.summary()
            self.resident.restrict((model.spec.own,))
            own = self.measure(client).metrics[metric]
            self.resident.restrict(None)
        data = client.data
        return FinalScores(
            metrics=dict(measured.metrics),
            num_test=len(client.test),
            majority=task.naive(data.train, data.test),
            bare_base=bare.metrics[metric],
            own_expert=own,
            choice=choice,
            usage=usage,
            row_scores=_compact(measured.per_row),
            samples=task.samples(data.test, measured.answers, bare.answers) if measured.answers else (),
        )

    def _received(self, client: Client, model: ClientModel) -> tuple[Tensors, int | None]:
        tensors = self.store.overlay(client.data.id, model.spec, model.tensors)
        if not model.candidates:
            return tensors, None
        choice = choose(self.resident, model, tensors, client.num_labels, client.train, self.optimiser.threads)
        return {**tensors, **model.candidates[choice]}, choice


def _only(result: LocalResult, names: frozenset[str]) -> Tensors:
    everything = {**result.update.tensors, **result.private}
    return {name: everything[name] for name in sorted(names)}


def _compact(values: Sequence[float]) -> str | list[float]:
    """One character per row where every row is right or wrong, else numbers."""
    if all(value in (0.0, 1.0) for value in values):
        return "".join("01"[int(value)] for value in values)
    return [round(value, 6) for value in values]
