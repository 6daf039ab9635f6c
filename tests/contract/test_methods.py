"""The contract suite: every method of METHODS passes every test here."""

import copy
from dataclasses import replace
from functools import cache
from typing import Any, cast

import pytest
import torch
from contract.planted import CLIENTS, adapter, made, train
from contract.table import CASES, NAMES, TABLE, built, row
from laws import holds_for

from fedlease.core.aggregate import check_update, mean_update
from fedlease.core.codec import dumps, loads
from fedlease.core.types import Budget, ClientTask, ClientUpdate, TensorName, head_names
from fedlease.methods.base import Method, rounds_for_warmup
from fedlease.methods.facts import FACTS
from fedlease.methods.registry import CENTRALISED, METHODS
from fedlease.methods.warmup import WARMUP
from fedlease.server.participation import Participation

BUDGET = Budget(warmup_epochs=2, rounds=3, local_epochs=1)

every_method, every_name, every_case = holds_for(TABLE), holds_for(NAMES), holds_for(CASES)


def step(method: Method, state: Any, seed: int = 0, skip: frozenset[str] = frozenset()) -> tuple[Any, list[ClientTask]]:
    """One step with all clients."""
    tasks = {client: task for client in sorted(CLIENTS) if (task := method.task(state, client)) is not None}
    updates = [train(client, task, CLIENTS[client], seed) for client, task in tasks.items() if client not in skip]
    return method.aggregate(state, updates, absent=skip & tasks.keys()), list(tasks.values())


def play(method: Method, steps: int, seed: int = 0) -> list[Any]:
    """The states of a run."""
    states = [method.init(adapter(seed), CLIENTS, seed)]
    for _ in range(steps):
        states.append(step(method, states[-1], seed)[0])
    return states


@cache
def played(name: str, head: str | None) -> list[Any]:
    """The states of a run's first steps, for tests that only read them: states are frozen, and a law says so."""
    return play(built(name, BUDGET, head), 4)


def test_the_tables_have_a_row_for_every_method() -> None:
    assert TABLE.keys() == METHODS.keys() == FACTS.keys() - {CENTRALISED}


@every_method
def test_a_method_whose_means_a_server_may_step_towards_says_where_they_are(name: str) -> None:
    method = built(name, BUDGET)
    assert bool(method.averaged) == FACTS[name].steps


@every_case
def test_state_round_trips_through_safetensors_and_json(name: str, head: str | None) -> None:
    for state in played(name, head)[:4]:
        blob = dumps(state)
        again = loads(blob)
        assert type(again) is type(state)
        assert dumps(again) == blob


@every_case
def test_a_restored_state_gives_the_same_next_state(name: str, head: str | None) -> None:
    method, state = built(name, BUDGET, head), played(name, head)[2]
    assert dumps(step(method, loads(dumps(state)))[0]) == dumps(step(method, state)[0])


@every_case
def test_arguments_are_left_unchanged(name: str, head: str | None) -> None:
    method = built(name, BUDGET, head)
    for state in played(name, head)[:4]:
        before = dumps(state)
        tasks = {client: task for client in CLIENTS if (task := method.task(state, client)) is not None}
        updates = [train(client, task, CLIENTS[client]) for client, task in tasks.items()]
        copies = copy.deepcopy(updates)
        method.aggregate(state, updates)
        for client in CLIENTS:
            method.model(state, client)
            method.group(state, client)
        assert dumps(state) == before
        assert [update.client for update in updates] == [update.client for update in copies]
        for update, copied in zip(updates, copies, strict=True):
            assert update.tensors.keys() == copied.tensors.keys()
            assert all(torch.equal(update.tensors[n], copied.tensors[n]) for n in copied.tensors)


@every_case
def test_the_same_seed_gives_the_same_states_and_another_does_not(name: str, head: str | None) -> None:
    method = built(name, BUDGET, head)
    first = dumps(played(name, head)[3])
    again, other = (dumps(play(method, 3, seed)[-1]) for seed in (0, 1))
    assert first == again
    assert first != other


@every_case
def test_the_order_of_arrival_changes_no_bit(name: str, head: str | None) -> None:
    method, states = built(name, BUDGET, head), played(name, head)
    # Two late clients in one step; heads are known of those that are there from the start.
    late = [] if head else [method.admit(method.admit(states[2], "b8", 5), "b9", 5)]
    for state in (*states[:3], *late):
        tasks = {client: task for client in state.clients if (task := method.task(state, client)) is not None}
        updates = [train(client, task, state.clients[client]) for client, task in tasks.items()]
        assert dumps(method.aggregate(state, updates)) == dumps(method.aggregate(state, updates[::-1]))


@every_case
def test_upload_holds_only_trained_tensors_of_the_model(name: str, head: str | None) -> None:
    method = built(name, BUDGET, head)
    for state in played(name, head)[:4]:
        for client in CLIENTS:
            task = method.task(state, client)
            assert task is not None
            assert task.upload <= task.trainable <= task.model.tensors.keys()
            assert task.stages and all(stage.epochs >= 1 for stage in task.stages)


@every_method
def test_uploaded_kinds_are_those_of_the_paper(name: str) -> None:
    method = built(name, BUDGET)
    state = played(name, None)[1]
    for client in CLIENTS:
        task = method.task(state, client)
        assert task is not None
        assert {TensorName.parse(tensor).kind for tensor in task.upload} == set(row(name).uploads)


@every_case
def test_the_head_follows_its_policy(name: str, head: str | None) -> None:
    method = built(name, BUDGET, head)
    for state in played(name, head)[:3]:
        task = method.task(state, "a0")
        assert task is not None
        named = {tensor for tensor in task.model.tensors if tensor.startswith("head/")}
        assert bool(named) == (head is not None)
        assert (named <= task.trainable) == (head != "frozen" or not named)
        assert (task.upload & named == named) == (head == "shared" or not named)
        assert (task.private & named == named) == (head == "local" or not named)


@every_case
def test_models_have_every_tensor_of_their_spec(name: str, head: str | None) -> None:
    method = built(name, BUDGET, head)
    for state in played(name, head):
        for client in CLIENTS:
            model = method.model(state, client)
            parsed = [TensorName.parse(tensor) for tensor in model.tensors]
            for module in model.spec.target_modules:
                for kind in "AB":
                    found = {p.expert for p in parsed if (p.module, p.kind) == (module, kind)}
                    assert found == set(range(model.spec.num_experts))
                routers = [p for p in parsed if (p.module, p.kind) == (module, "G")]
                assert len(routers) == (model.spec.mixer not in ("none", "sum", "instance"))


@every_case
def test_every_client_trains_every_adapter_for_exactly_the_budget_and_no_more(name: str, head: str | None) -> None:
    method = built(name, BUDGET, head)
    state, passes = method.init(adapter(), CLIENTS, 0), dict.fromkeys(CLIENTS, 0)
    for _ in range(20):
        for client in CLIENTS:
            task = method.task(state, client)
            if task is not None:
                of_adapters = [s.epochs * (tensor in s.trainable) for s in task.stages for tensor in task.model.tensors]
                passes[client] += max(of_adapters)
                # Another stage trains another adapter: no tensor but the head's learns in two of them.
                bare = [stage.trainable - head_names(stage.trainable) for stage in task.stages]
                assert sum(map(len, bare)) == len(frozenset().union(*bare))
        state, asked = step(method, state)
        if not asked:
            break
    assert state.round > method.last_round
    assert all(method.task(state, client) is None for client in CLIENTS)
    if row(name).at_most:
        assert all(BUDGET.passes - 1 <= made <= BUDGET.passes for made in passes.values())
    else:
        assert passes == dict.fromkeys(CLIENTS, BUDGET.passes)


@every_name
def test_all_methods_make_the_same_passes_whoever_is_asked(name: str) -> None:
    """E by everyone, and in each of R rounds local epochs by whoever is sampled: the same clients for every method."""
    cases = [(Budget(1, 4, 2), sampled) for sampled in (None, 1, 2, 5)]
    cases += [(Budget(2, 3), 2), (Budget(5, 1, 3), 1), (Budget(1, 0, 4), None)]
    for budget, sampled in cases:
        found, expected = passes_made(built(name, budget), budget, sampled)
        if row(name).at_most:
            assert all(made <= budget.passes for made in found.values()), (budget, sampled)
        else:
            assert found == expected, (budget, sampled)


def passes_made(method: Method, budget: Budget, sampled: int | None) -> tuple[dict[str, int], dict[str, int]]:
    """Passes of every client in a run, and those that the budget allows."""
    participation = Participation(clients_per_round=sampled)
    state, passes = method.init(adapter(), CLIENTS, 0), dict.fromkeys(sorted(CLIENTS), 0)
    opening = rounds_for_warmup(method)
    while tasks := {client: task for client in sorted(CLIENTS) if (task := method.task(state, client)) is not None}:
        asked = participation.choose(sorted(CLIENTS), tasks.get, state.round, 0, opening)
        for client in asked:
            stages = tasks[client].stages
            passes[client] += max(sum(s.epochs for s in stages if n in s.trainable) for n in tasks[client].trainable)
        state = method.aggregate(state, [train(client, tasks[client], CLIENTS[client]) for client in asked])
    everyone, made = list(passes), cast(Any, object())
    drawn = [participation.choose(everyone, lambda client: made, number, 0) for number in range(1, budget.rounds + 1)]
    return passes, {
        client: budget.warmup_epochs + budget.local_epochs * sum(client in asked for asked in drawn)
        for client in passes
    }


@every_case
def test_rounds_advance_by_one_and_without_updates_nothing_else_moves(name: str, head: str | None) -> None:
    method, state = built(name, BUDGET, head), played(name, head)[2]
    after = method.aggregate(state, [])
    assert after.round == state.round + 1
    for client in CLIENTS:
        before, kept = method.model(state, client), method.model(after, client)
        assert before.spec == kept.spec
        assert all(torch.equal(before.tensors[n], kept.tensors[n]) for n in before.tensors)


@holds_for(case for case in CASES if row(case[0]).warms_up)
def test_a_client_whose_first_task_is_refused_is_asked_again_and_then_joins_late(name: str, head: str | None) -> None:
    method = built(name, BUDGET, head)
    state = method.init(adapter(), CLIENTS, 0)
    first = method.task(state, "a1")
    assert first is not None and first.phase == WARMUP
    state, _ = step(method, state, skip=frozenset({"a1"}))
    again = method.task(state, "a1")
    assert again is not None and again.phase == WARMUP
    assert method.task(state, "a0") is None, "the others wait"
    state = method.aggregate(state, [], absent={"a1"})
    assert state.round == 1, "two refusals are enough"
    late = method.task(state, "a1")
    assert late is not None and late.phase == WARMUP
    state, _ = step(method, state)
    joined = method.task(state, "a1")
    assert joined is not None and joined.phase != WARMUP


@every_name
def test_a_late_client_is_admitted_and_trains(name: str) -> None:
    method = built(name, BUDGET)
    state = method.admit(played(name, None)[2], "b9", 5)
    task = method.task(state, "b9")
    assert task is not None
    state = method.aggregate(state, [train("b9", task, 5)])
    if row(name).uploads == "ABG" and row(name).warms_up and name.partition("+")[2] not in ("clients", "random"):
        assert state.assignment["b9"] == state.assignment["b0"], "placed with its own group"
    mine, other = (method.model(state, client).spec for client in ("b9", "b0"))
    # What is summed is cut into experts of each client's own rank.
    assert mine.mixer == other.mixer and (mine.mixer == "sum" or mine.num_experts == other.num_experts)


@every_case
def test_an_update_of_a_task_passes_the_checks_and_a_spoilt_one_does_not(name: str, head: str | None) -> None:
    method = built(name, BUDGET, head)
    for state in played(name, head)[:3]:
        task = method.task(state, "a0")
        assert task is not None
        update = train("a0", task, CLIENTS["a0"])
        check_update(task, "a0", update, expected_examples=CLIENTS["a0"])
        spoilt: ClientUpdate = replace(update, round=update.round + 1)
        with pytest.raises(Exception, match="expected"):
            check_update(task, "a0", spoilt)


def mean_of_groups(method: Method, state: Any, updates: list[ClientUpdate]) -> list[ClientUpdate]:
    """The updates of a step as secure sums leave them: after the warm-up everyone's is the mean of its group."""
    groups: dict[int, list[ClientUpdate]] = {}
    for update in updates:
        if update.phase != WARMUP and update.tensors:
            groups.setdefault(method.group(state, update.client), []).append(update)
    means = {client.client: mean_update(group) for group in groups.values() for client in group}
    return [replace(update, tensors=means.get(update.client, update.tensors)) for update in updates]


@holds_for(METHODS)
def test_a_method_whose_updates_may_be_summed_needs_no_more_than_the_mean_of_each_group(name: str) -> None:
    # What fedlease-plus needs beside, a fault of settings says.
    method = made(name, BUDGET, **({"average": "factors"} if name == "fedlease-plus" else {}))
    alone = summed = method.init(adapter(), CLIENTS, 0)
    for _ in range(4):
        tasks = {client: task for client in sorted(CLIENTS) if (task := method.task(alone, client)) is not None}
        updates = [train(client, task, CLIENTS[client]) for client, task in tasks.items()]
        summed = method.aggregate(summed, mean_of_groups(method, summed, updates))
        alone = method.aggregate(alone, updates)
    same = all(
        torch.allclose(tensor, method.model(summed, client).tensors[tensor_name], atol=1e-6)
        for client in CLIENTS
        for tensor_name, tensor in method.model(alone, client).tensors.items()
    )
    # Of one client a mean is its update; SCAFFOLD's slopes, and a choice that comes with the update, are not seen here.
    if name not in ("fedalt", "fedtreelora", "ifca", "scaffold"):
        assert same == FACTS[name].sums
    assert same or not FACTS[name].sums
