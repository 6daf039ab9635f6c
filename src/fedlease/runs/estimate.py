"""What a run will cost: every method is played through with made-up updates, and what it asks for is counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fedlease.config.settings import Settings
from fedlease.core.seeds import generator
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate
from fedlease.methods.base import Method, rounds_for_warmup
from fedlease.methods.warmup import WARMUP
from fedlease.server.participation import Participation
from fedlease.server.transport import count_bytes

__all__ = [
    "CheckReport",
    "MethodEstimate",
    "Rows",
    "adapter_parameters",
    "estimate_method",
    "router_parameters",
]

ASSUMED_EXPERTS = 4
"""M is only known after the warm-up; estimates take this many, or fewer where there are fewer clients."""

BYTES = 4
BACKWARD = 3
"""A training step costs about this many forward passes: forward, gradient of the inputs, the rest."""


@dataclass(frozen=True)
class MethodEstimate:
    """One method's cost.

    Attributes:
        method: name.
        bytes_up: from all clients to the server, whole run, heads apart.
        bytes_down: from the server to all clients.
        seconds: of training and scoring.
    """

    method: str
    bytes_up: int
    bytes_down: int
    seconds: float


@dataclass(frozen=True)
class CheckReport:
    """What ``fedlease check`` found.

    Attributes:
        settings: resolved.
        tasks: client -> task.
        labels: client -> label names.
        train_rows: client -> rows.
        test_rows: client -> rows.
        mean_tokens: per train row.
        truncated: rows longer than ``data.max_tokens``.
        warnings: of the data.
        skipped: client -> why it takes no part.
        base_parameters: frozen.
        adapter_parameters: of one A, B pair over all adapted modules.
        router_parameters: of one client's routers at the assumed M.
        head_parameters: of the largest head.
        assumed_experts: M that the estimates take.
        memory_bytes: peak of the process, roughly.
        estimates: one per method.
    """

    settings: Settings
    tasks: Mapping[str, str]
    labels: Mapping[str, Sequence[str]]
    train_rows: Mapping[str, int]
    test_rows: Mapping[str, int]
    mean_tokens: float
    truncated: int
    warnings: Sequence[str]
    skipped: Mapping[str, str]
    base_parameters: int
    adapter_parameters: int
    router_parameters: int
    head_parameters: int
    assumed_experts: int
    memory_bytes: int
    estimates: Sequence[MethodEstimate]


def adapter_parameters(shapes: Mapping[str, tuple[int, int]], r: int) -> int:
    """A and B over all adapted modules: sum of r (in + out)."""
    return sum(r * (features_in + features_out) for features_in, features_out in shapes.values())


def router_parameters(shapes: Mapping[str, tuple[int, int]], num_experts: int) -> int:
    """G over all adapted modules: sum of (2M - 1) in; none when M = 1."""
    return 0 if num_experts == 1 else sum((2 * num_experts - 1) * features_in for features_in, _ in shapes.values())


@dataclass(frozen=True)
class Rows:
    """How many rows a client has."""

    train: int
    test: int


def estimate_method(
    name: str,
    method: Method,
    adapter: ClientModel,
    clients: Mapping[ClientId, Rows],
    participation: Participation,
    *,
    seed: int,
    num_experts: int,
    seconds_per_row: float,
    seconds_per_test_row: float | None = None,
    done: set[tuple[object, ...]] | None = None,
) -> MethodEstimate:
    """Plays a method from its first task to its last and counts bytes, rows trained and rows scored.

    Warm-ups are made up so that clients fall into ``num_experts`` groups; later updates are what was received.

    Args:
        name: of the method.
        method: with its head policy.
        adapter: the common start.
        clients: id -> rows.
        participation: who is asked.
        seed: root seed of the run.
        num_experts: groups to make up.
        seconds_per_row: of one training step, per row; a pass forward takes a third of it.
        seconds_per_test_row: of scoring, per row; None: a pass forward. Writing answers takes longer.
        done: first tasks that earlier methods of the run did, which are not done again; this method's are added.
    """
    done = set() if done is None else done
    order = sorted(clients)
    counted = {key: 0.0 for key in ("bytes_up", "bytes_down", "head_bytes_up", "head_bytes_down")}
    kept: set[ClientId] = set()  # clients with tensors of their own, which no longer train from the common start
    trained = scored = compared = 0
    state = method.init(adapter, {client: clients[client].train for client in order}, seed)
    while tasks := {client: task for client in order if (task := method.task(state, client)) is not None}:
        asked = participation.choose(tasks, state.round, seed, rounds_for_warmup(method))
        if participation.scores_everyone(state.round):
            scored += sum(clients[client].test for client in order if client not in asked)
        updates = []
        for client in asked:
            task = tasks[client]
            count_bytes(task, counted)
            updates.append(_made_up(client, order.index(client) % num_experts, task, clients[client].train))
            compared += len(task.model.candidates) * clients[client].train
            start = client not in kept and task.round <= 1 and _is_start(task, adapter)
            if task.private:
                kept.add(client)
            work = (client, task.round, tuple((tuple(sorted(stage.trainable)), stage.epochs) for stage in task.stages))
            if start and work in done:
                continue
            if start:
                done.add(work)
            trained += sum(stage.epochs for stage in task.stages) * clients[client].train
            scored += clients[client].test if participation.score_rounds else 0
        state = method.aggregate(state, updates)
    for client in order:
        model = method.model(state, client)
        scored += clients[client].test * (2 if model.spec.num_experts > 1 else 1)
        compared += len(model.candidates) * clients[client].train
    forward = seconds_per_row / BACKWARD
    scoring = forward if seconds_per_test_row is None else seconds_per_test_row
    seconds = seconds_per_row * trained + forward * compared + scoring * scored
    return MethodEstimate(name, int(counted["bytes_up"]), int(counted["bytes_down"]), seconds)


def _made_up(client: ClientId, group: int, task: ClientTask, rows: int) -> ClientUpdate:
    tensors = {name: task.model.tensors[name] for name in sorted(task.upload)}
    if task.phase == WARMUP:
        tensors = {
            name: torch.randn(tensor.shape, generator=generator(0, "estimate", group, name))
            for name, tensor in tensors.items()
        }
    choice = group % len(task.model.candidates) if task.model.candidates else None
    return ClientUpdate(client, task.phase, task.round, rows, tensors, choice)


def _is_start(task: ClientTask, adapter: ClientModel) -> bool:
    """Whether the client trains from the common start, as other methods' first tasks do."""
    same = [tensor is task.model.tensors.get(name) for name, tensor in adapter.tensors.items()]
    return task.model.spec == adapter.spec and all(same)
