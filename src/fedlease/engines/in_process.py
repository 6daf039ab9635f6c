"""The round loop on one machine: one resident base model, clients one after another, a checkpoint after every step."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedlease.core.aggregate import check_update
from fedlease.core.types import ANCHOR, Allocation, ClientId, ClientModel, ClientTask, Tensors, head_names
from fedlease.data.federation import ClientData
from fedlease.engines.checkpoint import Checkpoint, Saved
from fedlease.engines.choice import choose
from fedlease.engines.client_store import ClientStore
from fedlease.engines.events import (
    Allocated,
    BatchTrained,
    ClientFinished,
    Listener,
    MethodStarted,
    StepFinished,
    StepStarted,
    UpdateRefused,
)
from fedlease.engines.local_step import LocalResult, Optimiser, local_step
from fedlease.engines.participation import Participation
from fedlease.engines.resident import ResidentModel
from fedlease.engines.work_cache import WorkCache
from fedlease.errors import RunFailedError, UpdateRefusedError
from fedlease.methods.base import WARMUP, Method
from fedlease.methods.head import HeadState
from fedlease.tasks.base import Encoded, Measured

__all__ = ["Client", "Engine", "allocation_of", "fields_of"]


@dataclass(frozen=True)
class Client:
    """A client's rows as the engine needs them."""

    data: ClientData
    train: Encoded
    test: Encoded


class Engine:
    """Drives one method from its last checkpoint to its end.

    Args:
        resident: the base model.
        clients: all clients, by id.
        optimiser: of local training.
        participation: who is asked.
        checkpoint: where steps are kept.
        listeners: told of every event.
        cache: shared by the methods of a run.
    """

    def __init__(
        self,
        resident: ResidentModel,
        clients: Mapping[ClientId, Client],
        optimiser: Optimiser,
        participation: Participation,
        checkpoint: Checkpoint,
        listeners: Sequence[Listener],
        cache: WorkCache,
    ) -> None:
        self.resident = resident
        self.clients = clients
        self.optimiser = optimiser
        self.participation = participation
        self.checkpoint = checkpoint
        self.listeners = listeners
        self.cache = cache
        self.store = ClientStore()
        self.totals: dict[str, float] = {}

    def run(self, name: str, method: Method, initial: ClientModel) -> Any:
        """Runs a method to its end, from its checkpoint where there is one.

        Args:
            name: for events and files.
            method: with its head policy.
            initial: the adapter all clients start from.

        Returns:
            The method's last state; ``store`` and ``totals`` hold the rest.

        Raises:
            RunFailedError: too few usable updates in a step, or a checkpoint that cannot be written.
        """
        saved = self.checkpoint.load()
        self.checkpoint.clean()
        if saved is None:
            rows = {client: len(self.clients[client].train) for client in sorted(self.clients)}
            saved = Saved(name, 0, method.init(initial, rows, self.optimiser.seed), {})
            self.checkpoint.commit(saved)
        self.store = ClientStore({client: dict(slots) for client, slots in saved.private.items()})
        self.totals = dict(saved.totals)
        self._tell(MethodStarted(name, method.last_round, saved.step))
        while not saved.finished:
            saved = self._step(name, method, saved)
        return saved.state

    def _step(self, name: str, method: Method, saved: Saved) -> Saved:
        state = saved.state
        tasks = {client: task for client in sorted(self.clients) if (task := method.task(state, client)) is not None}
        if not tasks:
            finished = replace(saved, finished=True)
            self.checkpoint.commit(finished)
            return finished
        asked = self.participation.choose(tasks, state.round, self.optimiser.seed)
        phase = WARMUP if state.round == 0 else next(t.phase for t in (tasks[c] for c in asked))
        self._tell(StepStarted(name, phase, state.round, tuple(asked)))
        started = time.perf_counter()
        counted = {key: 0.0 for key in ("bytes_up", "bytes_down", "head_bytes_up", "head_bytes_down")}
        updates, refused, records = [], {}, {}
        seconds = {"train": 0.0, "evaluate": 0.0, "aggregate": 0.0}
        kept: dict[ClientId, tuple[ClientTask, Tensors]] = {}
        if self.participation.scores_everyone(state.round):
            begun = time.perf_counter()
            for client in sorted(self.clients.keys() - set(asked)):
                records[client] = {"score": self.score(method, state, client)}
            seconds["evaluate"] += time.perf_counter() - begun
        for client in asked:
            task = tasks[client]
            self._count(task, counted)
            try:
                result, metrics, spent = self._client(name, client, task)
                seconds["train"] += result.seconds
                seconds["evaluate"] += spent
                records[client] = {**metrics, "steps": result.steps, "seconds": round(result.seconds, 3)}
                if result.update.choice is not None:
                    records[client]["choice"] = result.update.choice
                check_update(task, client, result.update, expected_examples=len(self.clients[client].train))
            except UpdateRefusedError as error:
                refused[client] = error.reason
                self._tell(UpdateRefused(name, task.phase, task.round, client, error.reason))
                continue
            updates.append(result.update)
            kept[client] = (task, result.private)
        head = {"step": saved.step + 1, "method": name, "phase": phase, "round": state.round, "refused": refused}
        try:
            self.participation.require(name, state.round, len(updates), refused, asked, len(self.clients))
        except RunFailedError:
            self.checkpoint.note(head)
            raise
        begun = time.perf_counter()
        after = method.aggregate(state, updates, absent=frozenset(refused))
        for client, (task, private) in kept.items():
            self.store.put(client, task.model.spec, private)
        self.store.forget_other_specs({client: method.model(after, client).spec for client in self.clients})
        seconds["aggregate"] += time.perf_counter() - begun
        trained = max((_adapter_parameters(tasks[client]) for client in asked), default=0)
        self.totals["trainable"] = max(self.totals.get("trainable", 0), trained)
        for key, value in {**counted, **{f"seconds_{k}": v for k, v in seconds.items()}}.items():
            self.totals[key] = self.totals.get(key, 0.0) + value
        scores = [r["score"] for r in records.values() if "score" in r]
        record = {
            **head,
            "mean_score": sum(scores) / len(scores) if scores else None,
            "clients": {client: records[client] for client in sorted(records)},
            **{key: int(value) for key, value in counted.items()},
            "seconds": {
                **{k: round(v, 3) for k, v in seconds.items()},
                "step": round(time.perf_counter() - started, 3),
            },
        }
        saved = Saved(name, saved.step + 1, after, self.store.slots, dict(self.totals))
        self.checkpoint.commit(saved, record)
        allocation = allocation_of(after)
        if allocation is not None and allocation_of(state) is None:
            self._tell(Allocated(name, allocation))
        self._tell(StepFinished(name, record))
        return saved

    def score(self, method: Method, state: Any, client: ClientId) -> float:
        """The client's personalised model on its own test rows, by the headline metric."""
        self.load(method.model(state, client), client)
        return self.measure(client).metrics[self.resident.task.metric]

    def measure(self, client: ClientId) -> Measured:
        """What is loaded now, on the client's own test rows."""
        return self.resident.task.measure(self.resident, self.clients[client].test, self.optimiser.threads)

    def load(self, model: ClientModel, client: ClientId) -> int | None:
        """Puts a client's model in place, private tensors laid over; of candidates its choice, which is returned."""
        tensors, choice = self._received(model, client)
        self.resident.load(model, len(self.clients[client].data.labels), tensors)
        return choice

    def _received(self, model: ClientModel, client: ClientId) -> tuple[Tensors, int | None]:
        tensors = self.store.overlay(client, model.spec, model.tensors)
        if not model.candidates:
            return tensors, None
        rows, labels = self.clients[client].train, len(self.clients[client].data.labels)
        choice = choose(self.resident, model, tensors, labels, rows, self.optimiser.threads)
        return {**tensors, **model.candidates[choice]}, choice

    def _client(self, name: str, client: ClientId, task: ClientTask) -> tuple[LocalResult, dict[str, float], float]:
        """Scores the received model, then trains it."""
        begun = time.perf_counter()
        tensors, choice = self._received(task.model, client)
        key = self.cache.key(client, task, tensors)
        kept = self.cache.get(key)
        if kept is None:
            self.resident.load(task.model, len(self.clients[client].data.labels), tensors)
        metrics = self._on_receipt(client) if kept is None else kept[1]
        spent = time.perf_counter() - begun
        if kept is None:
            result = local_step(
                self.resident,
                client,
                task,
                self.clients[client].train,
                self.optimiser,
                lambda done, total, loss: self._tell(BatchTrained(name, client, done, total, loss)),
            )
            self.cache.put(key, (result, metrics))
        else:
            result = kept[0]
            update = replace(result.update, phase=task.phase, tensors=_only(result, task.upload))
            result = replace(
                result, update=update, private=_only(result, task.private | ({ANCHOR} & {*result.private}))
            )
        result = replace(result, update=replace(result.update, choice=choice))
        values = {"loss": result.update.metrics["loss"], **self._score_in(metrics)}
        self._tell(ClientFinished(name, task.phase, task.round, client, values, result.seconds, kept is not None))
        return result, values, spent

    def _on_receipt(self, client: ClientId) -> dict[str, float]:
        """Scores of what is loaded, before it is trained; empty where rounds are not scored."""
        return dict(self.measure(client).metrics) if self.participation.score_rounds else {}

    def _score_in(self, metrics: Mapping[str, float]) -> dict[str, float]:
        return {"score": metrics[self.resident.task.metric]} if metrics else {}

    def _count(self, task: ClientTask, totals: dict[str, float]) -> None:
        count_bytes(task, totals)

    def _tell(self, event: Any) -> None:
        for listener in self.listeners:
            listener(event)


def fields_of(state: Any) -> dict[str, Any]:
    """The fields of a method's own state, without the wrapper that heads add."""
    fields: dict[str, Any] = vars(state.inner if isinstance(state, HeadState) else state)
    return fields


def allocation_of(state: Any) -> Allocation | None:
    """The allocation inside a method's state, or None."""
    found: Allocation | None = fields_of(state).get("allocation")
    return found


def count_bytes(task: ClientTask, totals: dict[str, float]) -> None:
    """Adds what a task moves: down all but private tensors, every candidate; up what is uploaded; heads apart."""
    heads = head_names(task.model.tensors)
    # The model's own tensors are one of the candidates.
    for candidate in task.model.candidates[1:]:
        totals["bytes_down"] += sum(tensor.numel() * tensor.element_size() for tensor in candidate.values())
    for direction, names in (("down", task.model.tensors.keys() - task.private), ("up", task.upload)):
        for name in names:
            tensor = task.model.tensors[name]
            prefix = "head_" if name in heads else ""
            totals[f"{prefix}bytes_{direction}"] += tensor.numel() * tensor.element_size()


def _adapter_parameters(task: ClientTask) -> int:
    return sum(task.model.tensors[name].numel() for name in task.trainable - head_names(task.model.tensors))


def _only(result: LocalResult, names: frozenset[str]) -> Tensors:
    everything = {**result.update.tensors, **result.private}
    return {name: everything[name] for name in sorted(names)}
