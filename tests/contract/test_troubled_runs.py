"""Whole runs in which clients are sampled, refused, absent and late, drawn from a seed: what holds in every state."""

import random
from collections.abc import Mapping
from typing import Any

import torch
from contract.planted import CLIENTS, adapter, train
from contract.table import NAMES, built
from laws import holds_for

from fedlease.core.choices import HeadPolicy
from fedlease.core.codec import dumps, loads
from fedlease.core.low_rank import at_rank
from fedlease.core.types import Budget, ClientModel, ClientTask, TensorName
from fedlease.errors import RunFailedError
from fedlease.methods.base import rounds_for_warmup
from fedlease.methods.warmup import WARMUP
from fedlease.server.participation import Participation

LATE = {"A7": 5, "b8": 40, "z9": 15}
"""Sorted before, among and after the others; z is unlike both groups."""
EVERYONE = {**CLIENTS, **LATE}


def check(model: ClientModel) -> None:
    """Every tensor of the spec, finite, and of a number and shape that the modules can hold."""
    parsed = {name: TensorName.parse(name) for name in model.tensors}
    for module, (features_in, features_out) in {"layer.0.query": (6, 4), "layer.10.value": (6, 6)}.items():
        for expert in range(model.spec.num_experts):
            assert model.tensors[f"{module}/A/{expert}"].shape == (model.spec.r, features_in)
            assert model.tensors[f"{module}/B/{expert}"].shape == (features_out, model.spec.r)
        rows = {"top_m": 2 * model.spec.num_experts - 1, "softmax": model.spec.num_experts}.get(model.spec.mixer)
        if rows:
            assert model.tensors[f"{module}/G"].shape == (rows, features_in)
    assert 0 <= model.spec.own < model.spec.num_experts
    assert all(p.expert is None or p.expert < model.spec.num_experts for p in parsed.values())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.tensors.values())


@holds_for((name, seed, head) for name in NAMES for seed, head in ((0, "shared"), (1, "local")))
def test_every_state_is_whole_and_the_run_ends(name: str, seed: int, head: HeadPolicy) -> None:
    rng = random.Random(f"{name} {seed}")
    budget = Budget(rng.choice([1, 2, 3]), rng.choice([0, 2, 4]), rng.choice([1, 2]))
    method = built(name, budget, head, EVERYONE)
    participation = Participation(clients_per_round=rng.choice([None, 1, 2, 4]))
    state, clients, waiting = method.init(adapter(), CLIENTS, seed), dict(CLIENTS), dict(LATE)
    warmed: set[str] = set()
    for _ in range(60):
        if waiting and rng.random() < 0.3:
            late = rng.choice(sorted(waiting))
            clients[late] = waiting.pop(late)
            state = method.admit(state, late, clients[late])
        tasks = {client: task for client in sorted(clients) if (task := method.task(state, client)) is not None}
        if not tasks:
            break
        asked = participation.choose(sorted(clients), tasks.get, state.round, seed, rounds_for_warmup(method))
        absent = {client for client in asked if rng.random() < 0.25}
        for client in asked:
            check_task(tasks[client], state.round)
            assert not (tasks[client].phase == WARMUP and client in warmed), "nobody warms up twice"
        updates = [train(client, tasks[client], clients[client], seed) for client in asked if client not in absent]
        warmed |= {update.client for update in updates if update.phase == WARMUP}
        try:
            after = method.aggregate(state, rng.sample(updates, len(updates)), absent)
        except RunFailedError:
            assert not warmed, "only a run without any usable warm-up ends here"
            return
        assert after.round in (state.round, state.round + 1) and (after.round > state.round or state.round == 0)
        state = after
        whole(method, state, clients)
    blob = dumps(state)
    assert dumps(loads(blob)) == blob
    assert state.round == method.last_round + 1


def check_task(task: ClientTask, round_: int) -> None:
    assert task.round == round_
    assert task.stages and all(stage.epochs >= 1 and stage.trainable for stage in task.stages)
    assert task.upload <= task.trainable <= task.model.tensors.keys()
    check(task.model)


def whole(method: Any, state: Any, clients: Mapping[str, int]) -> None:
    groups = {client: method.group(state, client) for client in clients}
    experts = state.assignment
    assert experts.keys() <= clients.keys()
    assert all(groups[client] == expert for client, expert in experts.items())
    for client in clients:
        model = method.model(state, client)
        check(model)
        assert all(tensors.keys() <= model.tensors.keys() for tensors in model.candidates)
    # Whoever is of one group has one adapter from the server, and one head where heads are shared.
    for client, expert in experts.items():
        first = min(other for other, e in experts.items() if e == expert)
        one, two = method.model(state, first), method.model(state, client)
        shared = min(one.spec.r, two.spec.r)
        one, two = at_rank(one, shared), at_rank(two, shared)
        assert one.spec == two.spec
        assert all(torch.equal(one.tensors[n], two.tensors[n]) for n in one.tensors)
