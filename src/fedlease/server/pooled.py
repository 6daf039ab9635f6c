"""Centralised: one adapter trained on the rows of all clients together, the ceiling for reference.

No federated method: rows leave their clients. Batches hold one client's rows, since heads differ, in an order drawn
over all clients that are asked; everything else is as in the other engine. It leaves FedIT's state: one shared
adapter, own heads.
"""

import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedlease.client.resident import ResidentModel
from fedlease.client.training import LocalResult, Optimiser
from fedlease.client.worker import Answer
from fedlease.core.seeds import derive, generator
from fedlease.core.types import HEAD, ClientId, ClientTask, ClientUpdate, Tensors, head_names
from fedlease.errors import RunFailedError
from fedlease.peft_plugin.state import copy_into, snapshot
from fedlease.server.events import BatchTrained, Listener
from fedlease.server.in_process import LocalFleet
from fedlease.server.transport import Outcome
from fedlease.tasks.base import Encoded
from fedlease.tasks.batches import training_batches

__all__ = ["Pool", "PooledFleet", "pooled_step"]


@dataclass(frozen=True)
class Pool:
    """One client's part of the pool.

    Attributes:
        task: FedIT's, with the client's head.
        tensors: the task's model with what the client keeps laid over.
        rows: train rows, tokenised.
        num_labels: of the client.
    """

    task: ClientTask
    tensors: Tensors
    rows: Encoded
    num_labels: int


class PooledFleet(LocalFleet):
    """Everyone's rows in one place: one step trains on all of them. No bytes are counted: rows move, not adapters."""

    def work(
        self, method: str, step: int, tasks: Mapping[ClientId, ClientTask], tell: Listener
    ) -> Iterator[tuple[ClientId, Outcome]]:
        """Trains one adapter for all when the first client is asked for."""
        work, results = self.client_work, dict[ClientId, LocalResult]()
        for client, task in tasks.items():
            begun = time.perf_counter()
            work.load(self.clients[client], task.model)
            score = work.headline(work.on_receipt(self.clients[client]))
            spent = time.perf_counter() - begun
            if not results:
                pools = {
                    c: Pool(
                        t,
                        work.store.overlay(c, t.model.spec, t.model.tensors),
                        self.clients[c].train,
                        self.clients[c].num_labels,
                    )
                    for c, t in tasks.items()
                }
                results = pooled_step(
                    work.resident,
                    pools,
                    work.optimiser,
                    lambda c, done, total, loss: tell(BatchTrained(method, c, done, total, loss)),
                )
            result = results[client]
            self._pending[client] = result.private
            yield client, Answer(result.update, score, result.steps, result.seconds, spent)

    def count(self, task: ClientTask, client: ClientId, totals: dict[str, float]) -> None:
        """Nothing."""


def pooled_step(
    resident: ResidentModel, pools: Mapping[ClientId, Pool], optimiser: Optimiser, on_batch: Any = None
) -> dict[ClientId, LocalResult]:
    """Trains one adapter on everyone's rows, each row through its client's head, for the epochs of the tasks' stage.

    Args:
        resident: the base model.
        pools: client -> its part; the adapters in their tensors are the same.
        optimiser: one fresh AdamW for the adapter and all heads.
        on_batch: receives client, steps done, steps in total, and the loss of the last.

    Returns:
        Client -> what it gives back and keeps; everyone's adapter is the same. Seconds are shared out evenly.

    Raises:
        RunFailedError: the loss is NaN or infinite.
        ConfigError: as :func:`fedlease.client.training.local_step`.
    """
    with resident.repeatable():
        return _trained(resident, pools, optimiser, on_batch)


def _trained(
    resident: ResidentModel, pools: Mapping[ClientId, Pool], optimiser: Optimiser, on_batch: Any
) -> dict[ClientId, LocalResult]:
    torch.set_num_threads(optimiser.threads)
    started = time.perf_counter()
    clients = sorted(pools)
    first = pools[clients[0]]
    stage, number = first.task.stages[0], first.task.round
    resident.load(first.task.model, first.num_labels, first.tensors)
    adapter = resident.train_only(stage.trainable - head_names(stage.trainable))
    heads = _heads(resident, pools)
    learnt = bool(head_names(stage.trainable))
    of_heads = {client: _parameters(modules) if learnt else [] for client, modules in heads.items()}
    # Shared heads are one set of modules under several clients.
    distinct = {id(p): p for parameters in of_heads.values() for p in parameters}
    adamw = torch.optim.AdamW(
        [*adapter, *distinct.values()], lr=optimiser.lr, weight_decay=optimiser.weight_decay, fused=True
    )
    resident.model.train()
    torch.manual_seed(derive(optimiser.seed, "dropout", "pooled", number))
    shuffles = {client: generator(optimiser.seed, "batches", client, number, 0) for client in clients}
    order = generator(optimiser.seed, "pooled", number)
    total = stage.epochs * sum(math.ceil(len(pool.rows) / optimiser.batch_size) for pool in pools.values())
    steps, losses = dict.fromkeys(clients, 0), dict.fromkeys(clients, 0.0)
    for epoch in range(stage.epochs):
        losses = dict.fromkeys(clients, 0.0)
        batches = [
            (client, batch)
            for client in clients
            for batch in training_batches(pools[client].rows.lengths, optimiser.batch_size, shuffles[client])
        ]
        for i in torch.randperm(len(batches), generator=order).tolist():
            client, batch = batches[i]
            resident.use_head(heads[client])
            loss = resident.task.batch_loss(resident, pools[client].rows, batch)
            value = loss.item()
            if not math.isfinite(value):
                raise RunFailedError(f"pooled training: loss is {value} on rows of {client!r} in epoch {epoch + 1}")
            loss.backward()
            if optimiser.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_([*adapter, *of_heads[client]], optimiser.clip_norm)
            adamw.step()
            adamw.zero_grad(set_to_none=True)
            losses[client] += value * len(batch)
            steps[client] += 1
            if on_batch is not None:
                on_batch(client, sum(steps.values()), total, value)
    resident.model.eval()
    resident.train_only(())
    shared = resident.read(name for name in first.tensors if not name.startswith(f"{HEAD}/"))
    seconds = (time.perf_counter() - started) / len(clients)
    results = {}
    for client, pool in pools.items():
        values = {**shared, **snapshot(_named(heads[client]), _named(heads[client]))}
        task = pool.task
        update = ClientUpdate(
            client=client,
            phase=task.phase,
            round=task.round,
            num_examples=len(pool.rows),
            tensors={name: values[name] for name in sorted(task.upload)},
            metrics={"loss": losses[client] / len(pool.rows)},
        )
        private = {name: values[name] for name in sorted(task.private)}
        results[client] = LocalResult(update, private, steps[client], seconds)
    return results


def _heads(resident: ResidentModel, pools: Mapping[ClientId, Pool]) -> dict[ClientId, dict[str, nn.Module]]:
    """Head modules of every client with its values; one set for all where the head is shared."""
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
