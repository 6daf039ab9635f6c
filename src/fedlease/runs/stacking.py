"""How many clients are trained in one step: what the settings say, or what an accelerator has memory for."""

from dataclasses import replace

import torch

from fedlease.client.stacked import unstackable
from fedlease.client.stacked_layers import RowsNotFirstError
from fedlease.client.stacked_training import Job, StackedTrainer
from fedlease.core.types import Budget
from fedlease.errors import ConfigError
from fedlease.methods.fedit import FedIT
from fedlease.methods.head import with_head
from fedlease.runs.open import Prepared, optimiser_of

__all__ = ["with_clients_per_step"]

SHARE_OF_MEMORY = 0.8
"""Share of the free memory that steps may take: mixtures and scoring need more than the adapter that is tried."""

MOST = 64
"""Clients: from here on more rows in a step make it no faster."""


def with_clients_per_step(prepared: Prepared) -> Prepared:
    """Resolves ``clients_per_step`` to a number, by training two clients for a step where that has to be tried.

    Raises:
        ConfigError: the settings ask for several, and the model or the task cannot be computed so.
    """
    loaded = prepared.loaded
    asked, on_gpu = loaded.settings.clients_per_step, loaded.device.type == "cuda"
    if loaded.settings.privacy.epsilon is not None:
        if isinstance(asked, int) and asked > 1:
            raise ConfigError(
                "clients_per_step: must be 1 or auto with privacy.epsilon, where the rows of one client are computed "
                f"side by side, received {asked}"
            )
        asked = 1
    clients = asked if isinstance(asked, int) else MOST if on_gpu else 1
    if clients > 1:
        reason, bytes_each = unstackable(loaded.resident), 0
        if not reason:
            try:
                bytes_each = _bytes_per_client(prepared)
            except RowsNotFirstError as error:
                reason = str(error).removeprefix("model: ")
        if reason and isinstance(asked, int):
            raise ConfigError(
                f"clients_per_step: several clients cannot be computed in one step: {reason}; must be 1 or auto, "
                f"received {asked}"
            )
        if reason:
            clients = 1
        elif asked == "auto" and bytes_each:
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info(loaded.device)
            clients = max(1, min(MOST, int(SHARE_OF_MEMORY * free / bytes_each)))
    loaded.resident.unwrapped()
    return replace(prepared, loaded=loaded.with_settings(clients_per_step=clients))


def _bytes_per_client(prepared: Prepared) -> int:
    """Trains two clients on a batch of the longest rows; on a GPU, the memory that each of them took."""
    loaded = prepared.loaded
    clients = [client for client in prepared.clients.values() if len(client.train)]
    client = max(clients, key=lambda client: max(client.train.lengths))
    name, size = client.data.id, loaded.settings.train.batch_size
    rows = sorted(range(len(client.train)), key=lambda row: -client.train.lengths[row])[:size]
    method = with_head(FedIT(Budget(1, 0)), "local", prepared.heads)
    task = method.task(method.init(loaded.adapter, {name: 1}, loaded.settings.seed), name)
    assert task is not None  # FedIT's first round asks everyone
    train = client.train.take((rows * size)[:size])
    jobs = [Job(twin, task, task.model.tensors, train, client.num_labels) for twin in ("a", "b")]
    on_gpu = loaded.device.type == "cuda"
    before = 0
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(loaded.device)
        before = torch.cuda.memory_allocated(loaded.device)
    StackedTrainer(loaded.resident, optimiser_of(loaded.settings)).train(jobs)
    return (torch.cuda.max_memory_allocated(loaded.device) - before) // 2 if on_gpu else 0
