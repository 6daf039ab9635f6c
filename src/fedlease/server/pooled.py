"""The ``centralised`` run: one adapter trained on the pooled rows of all clients, as an upper bound.

This is not a federated method, since rows leave their clients. A batch has rows of one client, because heads differ,
and batches come in a random order over all clients that are asked. The resulting state is FedIT's: one shared adapter
and a head per client.
"""

import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from fedlease.client.messages import Reply, Request, Train
from fedlease.client.resident import ResidentModel
from fedlease.client.results import LocalResult, local_result
from fedlease.client.training import OnBatch, Optimiser, Progress, Share, Trainer
from fedlease.core.seeds import derive, generator, seed_torch
from fedlease.core.types import HEAD, ClientId, ClientTask, Tensors, head_names
from fedlease.errors import RunFailedError, UpdateRefusedError
from fedlease.peft_plugin.state import copy_into, snapshot
from fedlease.server.in_process import InProcess
from fedlease.tasks.encoded import Encoded

__all__ = ["Pool", "Pooled", "PooledTrainer"]


@dataclass(frozen=True)
class Pool:
    """One client's part of the pool.

    Attributes:
        task: FedIT's task with the client's head.
        tensors: of the task's model, with the client's private tensors in their places.
        rows: tokenised train rows.
        num_labels: number of the client's labels.
    """

    task: ClientTask
    tensors: Tensors
    rows: Encoded
    num_labels: int


@dataclass
class PooledTrainer:
    """Trains the tasks of all clients at once; each client then takes its own result.

    Attributes:
        resident: the base model.
        optimiser: settings of the AdamW that trains the adapter and all heads.
    """

    resident: ResidentModel
    optimiser: Optimiser
    _results: dict[ClientId, LocalResult] = field(default_factory=dict)

    def train(self, client: ClientId, task: ClientTask, rows: Encoded, on_batch: OnBatch | None = None) -> LocalResult:
        """The client's result of the last :meth:`pool`."""
        return self._results.pop(client)

    def pool(self, pools: Mapping[ClientId, Pool], on_batch: OnBatch | None = None) -> None:
        """Trains one adapter on all rows, each with the head of its client.

        Args:
            pools: client -> its part; all have the same adapter and the same stages.
            on_batch: called after every step.

        Raises:
            RunFailedError: the loss is NaN or infinite.
            ConfigError: as :meth:`fedlease.client.training.Trainer.train`.
        """
        with self.resident.repeatable():
            self._results = self._pool(pools, on_batch)

    def _pool(self, pools: Mapping[ClientId, Pool], on_batch: OnBatch | None) -> dict[ClientId, LocalResult]:
        resident, seed = self.resident, self.optimiser.seed
        trainer = Trainer(resident, self.optimiser)
        torch.set_num_threads(self.optimiser.threads)
        started = time.perf_counter()
        clients = sorted(pools)
        first = pools[clients[0]]
        stage, number = first.task.stages[0], first.task.round
        resident.load(first.task.model, first.num_labels, first.tensors)
        adapter = resident.train_only(stage.trainable - head_names(stage.trainable))
        heads = _heads(resident, pools)
        learns = bool(head_names(stage.trainable))
        shares = {}
        for client in clients:
            shuffle = generator(seed, "batches", client, number, 0)
            own = _parameters(heads[client]) if learns else []
            shares[client] = Share(pools[client].rows, shuffle, [*adapter, *own], heads[client])
        seed_torch(derive(seed, "dropout", "pooled", number), resident.device)
        steps = {client: stage.epochs * self.optimiser.steps_per_epoch(pools[client].rows) for client in clients}
        progress = Progress(sum(steps.values()), on_batch)
        try:
            losses = trainer.fit(shares, stage.epochs, progress, generator(seed, "pooled", number))
        except UpdateRefusedError as error:
            raise RunFailedError(f"pooled training: {error.reason}, on rows of {error.client!r}") from error
        finally:
            resident.at_rest()
        shared = resident.read(name for name in first.tensors if not name.startswith(f"{HEAD}/"))
        seconds = (time.perf_counter() - started) / len(clients)
        results = {}
        for client, pool in pools.items():
            values = {**shared, **snapshot(_named(heads[client]), _named(heads[client]))}
            count, loss = len(pool.rows), losses[client]
            results[client] = local_result(client, pool.task, count, values, loss, steps[client], seconds)
        return results


@dataclass(frozen=True)
class Pooled(InProcess):
    """A transport that trains on the rows of all clients at once; no bytes are counted, since no adapters travel."""

    trainer: PooledTrainer = field(kw_only=True)

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        """Trains one adapter on all rows, before the first client takes its result."""
        pools, on_batch = {}, None
        for client, request in requests.items():
            if isinstance(request, Train):
                worker = self.workers[client]
                tensors, _ = worker.received(request.model)
                pools[client] = Pool(request.task, tensors, worker.client.train, worker.client.num_labels)
                on_batch = worker.on_batch
        if pools:
            self.trainer.pool(pools, on_batch)
        yield from super().send(requests)


def _heads(resident: ResidentModel, pools: Mapping[ClientId, Pool]) -> dict[ClientId, dict[str, nn.Module]]:
    """Head modules of every client with its values; clients with a shared head have the same modules."""
    made: dict[ClientId, dict[str, nn.Module]] = {}
    for client, pool in sorted(pools.items()):
        names = head_names(pool.tensors)
        if names & pool.task.upload and made:
            made[client] = next(iter(made.values()))
            continue
        made[client] = copy.deepcopy(resident.head_modules(pool.num_labels))
        copy_into(_named(made[client]), {name: pool.tensors[name] for name in names})
    return made


def _named(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {f"{HEAD}/{name}.{path}": p for name, module in modules.items() for path, p in module.named_parameters()}


def _parameters(modules: Mapping[str, nn.Module]) -> list[nn.Parameter]:
    parameters = list(_named(modules).values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters
