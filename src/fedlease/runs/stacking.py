"""The number of clients that are trained in one step: set by the user, or chosen for the memory or the CPU."""

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
"""Share of the free memory that steps may take, since mixtures and scoring need more than the trial's adapter."""

MOST = 64
"""Most clients in a step; more do not make it faster."""

MOST_ON_CPU = 4
"""Most clients in a step on a CPU; more were not measured."""

TOKENS = 1024
"""Most tokens in a step of several clients on a CPU, which bounds its memory; more were not measured."""


def with_clients_per_step(prepared: Prepared) -> Prepared:
    """Resolves ``clients_per_step`` to a number, with a trial step of two clients if necessary.

    Raises:
        ConfigError: the settings ask for several clients, which the model or the task does not allow.
    """
    loaded = prepared.loaded
    asked, private = loaded.settings.clients_per_step, loaded.settings.privacy.epsilon is not None
    if private and isinstance(asked, int) and asked > 1:
        raise ConfigError(
            "clients_per_step: must be 1 or auto with privacy.epsilon, which stacks the rows of one client instead, "
            f"received {asked}"
        )
    clients, because = (asked, "") if isinstance(asked, int) else _most(prepared)
    if clients > 1:
        fault, bytes_each = unstackable(loaded.resident), 0
        if not fault:
            try:
                bytes_each = _bytes_per_client(prepared)
            except RowsNotFirstError as error:
                fault = str(error).removeprefix("model: ")
        if fault and isinstance(asked, int):
            raise ConfigError(
                f"clients_per_step: several clients cannot be computed in one step: {fault}; must be 1 or auto, "
                f"received {asked}"
            )
        if fault:
            clients, because = 1, fault
        elif asked == "auto" and bytes_each:
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info(loaded.device)
            clients = max(1, min(MOST, int(SHARE_OF_MEMORY * free / bytes_each)))
    loaded.resident.unwrapped()
    chosen = {"clients_per_step": f"{clients}, since {because}"} if asked == "auto" else {}
    return replace(prepared, loaded=loaded.with_settings(chosen, clients_per_step=clients))


def _most(prepared: Prepared) -> tuple[int, str]:
    """The largest sensible number of clients in a step, as far as it is known without a trial, and the reason."""
    loaded = prepared.loaded
    settings, device = loaded.settings, loaded.device.type
    if settings.privacy.epsilon is not None:
        return 1, "privacy.epsilon stacks the rows of one client instead"
    if device == "cuda":
        return MOST, "so many fit into its free memory"
    if device != "cpu":
        return 1, f"more are not known to be faster on {device}"
    if settings.dtype == "float32" and settings.num_threads == 1:
        return 1, "with float32 and one thread, more are not faster"
    if settings.train.base_dropout:
        return 1, "train.base_dropout would be drawn for all clients of a step at once"
    trained, optimiser = [client.train for client in prepared.clients.values()], optimiser_of(settings)
    steps = sum(optimiser.steps_per_epoch(rows) for rows in trained)
    tokens = round(sum(sum(rows.lengths) for rows in trained) / steps)
    clients = max(1, min(MOST_ON_CPU, len(trained), TOKENS // tokens))
    return clients, f"a client's batch has {tokens} tokens, and a step of at most {MOST_ON_CPU} clients up to {TOKENS}"


def _bytes_per_client(prepared: Prepared) -> int:
    """Trains two clients on a batch of the longest rows; returns the bytes of memory per client on a GPU, else 0."""
    loaded = prepared.loaded
    clients = [client for client in prepared.clients.values() if len(client.train)]
    client = max(clients, key=lambda client: max(client.train.lengths))
    name, size = client.data.id, loaded.settings.train.batch_size
    rows = sorted(range(len(client.train)), key=lambda row: -client.train.lengths[row])[:size]
    method = with_head(FedIT(Budget(1, 0)), "local", prepared.heads)
    task = method.task(method.init(loaded.adapter, {name: 1}, loaded.settings.seed), name)
    assert task is not None  # FedIT's first round asks all clients
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
