"""Onboarding of a new client in a finished run: placed with an expert by its warm-up, or joining as a late client."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fedlease.client.halves import beginning
from fedlease.client.training import Trainer
from fedlease.client.worker import Client
from fedlease.core.adapters import whole
from fedlease.core.low_rank import at_rank, padded
from fedlease.core.placement import Placement
from fedlease.core.types import ClientId, ClientModel, ClientTask, Stage, Tensors, head_names
from fedlease.core.wording import counted
from fedlease.data.federation import NOTHING_TO_LEARN, UNSCALED, ClientData, Federation, why_nothing
from fedlease.data.reading.examples import client_id_fault, folded
from fedlease.data.sources.folder import load_client
from fedlease.errors import ConfigError, DataError, RunFailedError, UpdateRefusedError
from fedlease.files import sweep
from fedlease.methods.base import State
from fedlease.methods.head import HeadState
from fedlease.methods.ranks import model_at
from fedlease.methods.warmup import WARMUP
from fedlease.methods.wrapper import innermost, with_innermost
from fedlease.reporting.run.page import write_report
from fedlease.runs.open import optimiser_of
from fedlease.storage.newcomers import Newcomer, read_newcomers, write_newcomer
from fedlease.storage.run_folder import run_lock
from fedlease.tasks.encoded import Encoded
from fedlease.tasks.metric_words import of_metric
from fedlease.use.experts import expert_model, experts_of
from fedlease.use.late_client import join
from fedlease.use.open_run import OpenRun

__all__ = ["Onboarded", "onboard"]

LOCAL = "onboard"
OnBatch = Callable[[str, int, int, float], None]
"""Receives the phase, steps done, steps in total, and the loss."""


@dataclass(frozen=True)
class Onboarded:
    """The result of onboarding a client.

    Attributes:
        folder: its files in the run folder.
        placement: its expert, with the evidence; None for a method without experts.
        scores: headline metric on its test rows, in this order: majority class or most frequent answer, untrained
            model, its own warm-up and every expert alone (if there are experts), its model on arrival, and its model
            after local training.
        notes: remarks about its rows, one sentence each.
    """

    folder: Path
    placement: Placement | None
    scores: dict[str, float]
    notes: tuple[str, ...] = ()


def onboard(
    run: OpenRun, client: ClientId, data: Path, epochs: int | None = None, on_batch: OnBatch | None = None
) -> Onboarded:
    """Adds a client to a finished run, without changing the models of other clients, and rewrites the report.

    Under a method with experts, the client warms up from the run's initial adapter, is placed with the expert whose
    clients' warm-ups are nearest to its own (paper, distance of phase 1), and trains its own copy of that expert, its
    cluster's router and a head on its rows. Under any other method, it joins as a late client, see
    :func:`fedlease.use.late_client.join`.

    Args:
        run: run folder opened with the run's main method.
        client: its id.
        data: a folder with train and test files, or one file.
        epochs: passes of local training after the placement; None takes ``rounds`` x ``train.local_epochs``.
        on_batch: called after every optimiser step.

    Raises:
        ConfigError: the id is taken or cannot be a folder name, the method is a baseline, the folder holds one client's
            model alone, or ``epochs`` < 0.
        DataError: the rows have faults; the message has all of them.
        RunFailedError: training diverged; nothing is written.
    """
    with run_lock(run.out):
        sweep(run.out / "onboarded")
        return _onboard(run, client, data, epochs, on_batch)


def _onboard(run: OpenRun, client: ClientId, data: Path, epochs: int | None, on_batch: OnBatch | None) -> Onboarded:
    state = _state(run)
    _check_id(run, client)
    settings = run.settings
    if fault := settings.lora.fault_of(client):
        raise ConfigError(fault)
    if epochs is None:
        epochs = settings.rounds * settings.train.local_epochs
    if epochs < 0:
        raise ConfigError(f"epochs: must be at least 0, received {epochs}")
    notes = list[str]()
    rows = load_client(data, client, settings.data, settings.seed, settings.task, notes.append)
    if (why := why_nothing(rows)) == NOTHING_TO_LEARN:
        raise DataError(
            f"client {client!r}: all train rows have the label {rows.labels[0]!r}, so its head has one output, it "
            "learns nothing and cannot be placed; the run's data.labels would give it the labels of its task"
        )
    if why:
        raise DataError(f"client {client!r}: {why}, so that it cannot be placed")
    if not rows.test:
        raise DataError(f"client {client!r}: it has no test rows, by which its experts are compared")
    work = _Newcomer(run, rows, on_batch)

    adapter = at_rank(run.loaded.adapter, settings.lora.of(client))
    start = ClientModel(adapter.spec, {**adapter.tensors, **run.loaded.head(rows.labels).tensors})
    placement, others = None, dict[str, ClientModel]()
    if state.centroids is None:
        arrival, trained = join(run, work.client, work.trainer, epochs, on_batch)
    else:
        task = _warmup_task(run, state, client, len(rows.train))
        learnt = work.trained(replace(task, model=start))
        warm = replace(start, tensors={**start.tensors, **whole(learnt)})
        if task.sketch is None:
            uploaded = padded({name: learnt[name] for name in task.expected}, state.adapter.spec.r)
        else:
            uploaded = task.sketch.of({name: learnt[name] for name in learnt.keys() - head_names(learnt)})
        placement = state.centroids.place(uploaded)
        arrival = _with_expert(run, state, placement.expert, rows, warm)
        own = arrival.names("AB", arrival.spec.own) | arrival.names("G")
        trained = work.train(arrival, LOCAL, own, epochs) if epochs else arrival
        others = {"own warm-up": warm}
        others |= {f"expert {e} alone": alone for e, alone in _experts_alone(run, arrival).items()}

    majority = of_metric(run.task.metric, run.settings.task).majority
    models = {"untrained": start, **others, "on arrival": arrival, f"after {counted(epochs, 'local epoch')}": trained}
    scores = {majority: run.task.majority_score(rows.train, rows.test)}
    scores |= {name: work.score(model) for name, model in models.items()}
    newcomer = Newcomer(
        client=client,
        task=rows.task,
        labels=list(rows.labels),
        pairs=any(row.text_pair is not None for row in rows.train),
        scale=None if rows.scale is None else list(rows.scale),
        train_rows=len(rows.train),
        valid_rows=len(rows.valid),
        test_rows=len(rows.test),
        data=str(data.resolve()),
        data_fingerprint=Federation.of([rows]).fingerprint(),
        **_stated(placement),
        epochs=epochs,
        metric=run.task.metric,
        scores=scores,
    )
    folder = write_newcomer(run.out, trained, newcomer)
    write_report(run.out)
    return Onboarded(folder, placement, scores, tuple(notes))


class _Newcomer:
    """Trains and scores one client that the run does not know."""

    def __init__(self, run: OpenRun, rows: ClientData, on_batch: OnBatch | None) -> None:
        self.run = run
        self.rows = rows
        self.on_batch = on_batch
        self.train_rows: Encoded = run.encode(rows.train, rows.scale or UNSCALED)
        self.test_rows: Encoded = run.encode(rows.test, rows.scale or UNSCALED)
        self.client = Client(rows, self.train_rows, self.test_rows)
        self.trainer = Trainer(run.resident, replace(optimiser_of(run.settings), threads=run.threads))

    def train(self, model: ClientModel, phase: str, names: frozenset[str], epochs: int) -> ClientModel:
        """The model after ``epochs`` passes over these tensors, and over the head unless heads are frozen."""
        number = self.run.settings.rounds + 1
        learnt = self.trained(ClientTask(phase, number, model, (Stage(names, epochs),), upload=names))
        return replace(model, tensors={**model.tensors, **learnt})

    def trained(self, task: ClientTask) -> Tensors:
        """The tensors that a task trains, and the head unless heads are frozen."""
        if self.run.settings.head != "frozen":
            head = head_names(task.model.tensors)
            stages = tuple(replace(stage, trainable=stage.trainable | head) for stage in task.stages)
            task = replace(task, stages=stages, upload=task.upload | head)

        def tell(client: ClientId, done: int, total: int, loss: float) -> None:
            if self.on_batch is not None:
                self.on_batch(task.phase, done, total, loss)

        begin = beginning(task, task.model.tensors, self.run.task, self.train_rows)
        self._load(replace(task.model, tensors=begin))
        try:
            learnt = self.trainer.train(self.rows.id, task, self.train_rows, tell).update.tensors
            for name, tensor in learnt.items():
                if not bool(torch.isfinite(tensor).all()):
                    raise UpdateRefusedError(self.rows.id, f"{name} holds values that are NaN or infinite")
        except UpdateRefusedError as error:
            raise RunFailedError(f"client {self.rows.id!r} was not onboarded: {task.phase}: {error.reason}") from error
        return learnt

    def score(self, model: ClientModel) -> float:
        """The headline metric on the test rows."""
        self._load(model)
        return self.run.task.measure(self.run.resident, self.test_rows, self.run.threads).metrics[self.run.task.metric]

    def _load(self, model: ClientModel) -> None:
        self.run.resident.load(model, len(self.rows.labels))


def _stated(placement: Placement | None) -> dict[str, Any]:
    """Content of ``onboarding.json`` about a placement, or about none under a method without experts."""
    found = placement or Placement(0, (), math.inf, unlike=False)
    return {
        "expert": None if placement is None else placement.expert,
        "distances": list(found.distances),
        "margin": found.margin if math.isfinite(found.margin) else None,
        "unlike": found.unlike,
        "similarities": list(found.similarities),
        "errors": list(found.errors),
        "reliability": found.reliability if found.similarities else None,
        "learnt": found.learnt,
        "likeness": found.likeness if found.similarities else "",
    }


def _warmup_task(run: OpenRun, state: State, client: ClientId, rows: int) -> ClientTask:
    """The warm-up that a client would have been asked for in the run, which is the same for all that it draws."""
    admitted = run.bare_method.admit(state, client, rows)
    begun = with_innermost(admitted, replace(innermost(admitted), round=0))
    task = run.bare_method.task(begun, client)
    assert task is not None and task.phase == WARMUP  # the client is in no group
    return task


def _state(run: OpenRun) -> State:
    state = run.saved.state
    if not isinstance(state, HeadState):
        raise ConfigError(f"method: {run.out} holds the model of one client alone, which nobody else can join")
    if run.method != run.settings.method:
        raise ConfigError(f"method: newcomers join {run.settings.method!r}, the run's own, received {run.method!r}")
    return state.inner


def _check_id(run: OpenRun, client: ClientId) -> None:
    rule = client_id_fault(client)
    if rule:
        raise ConfigError(f"client: an id {rule}, received {client!r}")
    # Read again: somebody else may have onboarded since the run was opened.
    same = [known for known in {**run.clients, **read_newcomers(run.out)} if folded(known) == folded(client)]
    if same:
        raise ConfigError(f"client: the run has a client {same[0]!r} already, received {client!r}")


def _experts_alone(run: OpenRun, arrival: ClientModel) -> dict[int, ClientModel]:
    """Scores every expert of the run alone, under the newcomer's head."""
    head = {name: arrival.tensors[name] for name in head_names(arrival.tensors)}
    rank = arrival.spec.r
    alone = {expert: at_rank(expert_model(run, members[0]), rank) for expert, members in experts_of(run).items()}
    return {expert: replace(model, tensors={**model.tensors, **head}) for expert, model in alone.items()}


def _with_expert(run: OpenRun, state: State, expert: int, rows: ClientData, warm: ClientModel) -> ClientModel:
    """The model of an expert's clients, with the newcomer's warmed-up head, or the shared one where labels agree."""
    members = [client for client, own in sorted(state.assignment.items()) if own == expert]
    model = model_at(run.bare_method, state, members[0], warm.spec.r)
    head: Tensors = {name: warm.tensors[name] for name in head_names(warm.tensors)}
    if run.settings.head == "shared" and run.client(members[0]).labels == rows.labels:
        shared = run.policy.model(run.saved.state, members[0]).tensors
        head = {name: shared[name] for name in head}
    return replace(model, tensors={**model.tensors, **head})
