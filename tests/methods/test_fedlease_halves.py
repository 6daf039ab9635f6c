"""FedLEASE that tells halves apart: who is asked how long, who groups with whom, who is unsure."""

import re
from typing import Any

import pytest
import torch
from contract.planted import SHAPES, adapter

from fedlease.core.seeds import generator
from fedlease.core.types import Budget, ClientTask, ClientUpdate
from fedlease.methods.base import Terms
from fedlease.methods.fedlease_halves import Halves
from fedlease.methods.registry import make_method

BUDGET = Budget(warmup_epochs=2, rounds=8)


def method(budget: Budget = BUDGET, *, private: bool = False, **own: Any) -> Halves:
    built: Any = make_method("fedlease-plus", Terms(budget, private=private), own)
    while not isinstance(built, Halves):
        built = built.method
    return built


def answer(client: str, task: ClientTask, rows: int, *, learnt: bool = True) -> ClientUpdate:
    """Halves that have all of the task in common, or nothing; the task is the first letter of the client."""
    tensors = {}
    for name, like in task.expected.items():
        kind = name.rsplit("/", 1)[0]
        tensors[name] = torch.randn(like.shape, generator=generator(0, "task", client[0], kind))
        if "/B/" in name and not learnt:
            tensors[name] = torch.randn(like.shape, generator=generator(0, "noise", client, name))
        if "/A/" in name:
            tensors[name] = task.model.tensors[kind + "/0"]
    return ClientUpdate(client, task.phase, task.round, rows, tensors, metrics={"loss": 0.5})


def warmed(halves: Halves, clients: dict[str, int], unlearnt: str = "") -> Any:
    """The state after every warm-up that is asked for; clients of the tasks in ``unlearnt`` never learn."""
    state = halves.init(adapter(), clients, 0)
    while state.round == 0:
        tasks = {c: task for c in sorted(clients) if (task := halves.task(state, c)) is not None}
        updates = [answer(c, task, clients[c], learnt=c[0] not in unlearnt) for c, task in tasks.items()]
        state = halves.aggregate(state, updates)
    return state


def first_task(halves: Halves, state: Any, client: str) -> ClientTask:
    task = halves.task(state, client)
    assert task is not None
    return task


def test_few_rows_warm_up_whole_and_are_unsure() -> None:
    halves, clients = method(), {"a0": 40, "a1": 40, "a2": 15, "b0": 40}
    state = halves.init(adapter(), clients, 0)
    assert [first_task(halves, state, client).halves for client in sorted(clients)] == [True, True, False, True]
    after = warmed(halves, clients)
    assert after.allocation.unsure == ("a2",) and after.assignment == {"a0": 0, "a1": 0, "a2": 1, "b0": 2}
    assert any("'a2'" in note and "16 rows" in note for note in after.allocation.warnings)


def test_all_make_the_same_passes_on_halves_where_rows_may_not_change_them() -> None:
    halves, clients = method(private=True), {"a0": 2, "a1": 40, "a2": 800}
    state = halves.init(adapter(), clients, 0)
    tasks = [first_task(halves, state, client) for client in sorted(clients)]
    assert [(task.halves, [stage.epochs for stage in task.stages]) for task in tasks] == [(True, [2])] * 3
    after = warmed(halves, clients)
    assert {stage.epochs for c in clients for stage in first_task(halves, after, c).stages} == {1}


def test_unequal_rows_make_about_equal_steps_within_the_budget() -> None:
    clients = {"a0": 50, "a1": 200, "a2": 800}
    state = method().init(adapter(), clients, 0)
    # The upper quartile is 500: a client with 500 / E = 250 rows makes E passes, one with others E x 250 / rows, at
    # least 1, and at most E and a quarter of the rounds.
    assert [first_task(method(), state, c).stages[0].epochs for c in sorted(clients)] == [4, 2, 1]
    long = method(Budget(2, 40))
    assert first_task(long, long.init(adapter(), clients, 0), "a0").stages[0].epochs == 10
    # As rounds of three epochs the same ten passes are 3 + 3 + 3 + 1.
    parted = method(Budget(2, 40, 3, warmup_as_rounds=True))
    task = first_task(parted, parted.init(adapter(), clients, 0), "a0")
    assert [stage.epochs for stage in task.stages] == [3, 3, 3, 1]


def test_every_client_makes_the_passes_of_the_budget() -> None:
    halves, clients = method(), {"a0": 50, "a1": 200, "a2": 800, "b0": 200, "b1": 200}
    state, passes = halves.init(adapter(), clients, 0), dict.fromkeys(clients, 0)
    while tasks := {c: task for c in sorted(clients) if (task := halves.task(state, c)) is not None}:
        for client, task in tasks.items():
            passes[client] += task.stages[0].epochs
        state = halves.aggregate(state, [answer(c, task, clients[c], learnt=c != "b1") for c, task in tasks.items()])
    assert state.round == BUDGET.rounds + 1
    assert passes == dict.fromkeys(clients, BUDGET.passes)


def test_where_nobody_has_learnt_one_expert_is_trained_by_all() -> None:
    halves, clients = method(), {"a0": 40, "a1": 40, "b0": 40}
    state = warmed(halves, clients, unlearnt="ab")
    assert len(state.experts) == 1 and state.allocation.unsure == ("a0", "a1", "b0")
    assert any("no client has learnt" in note for note in state.allocation.warnings)


def test_a_client_alone_for_now_joins_those_of_its_task_once_it_has_learnt_it() -> None:
    """The next re-allocation mends what the warm-up could not tell; nobody else moves."""
    mended: Any = make_method("fedlease-plus", Terms(BUDGET), {"reallocate": 2, "average": "factors"})
    clients = {"a0": 40, "a1": 40, "b0": 40, "c0": 40, "c1": 40, "c2": 40}
    unlearnt, states = {"c2", "b0"}, [mended.init(adapter(), clients, 0)]
    while tasks := {c: task for c in sorted(clients) if (task := mended.task(states[-1], c)) is not None}:
        # From round 1 on c2 learns its task; b0 never does.
        learnt = {c: c not in unlearnt or (c == "c2" and states[-1].round > 0) for c in clients}
        updates = [answer(c, task, 40, learnt=learnt[c]) for c, task in tasks.items()]
        states.append(mended.aggregate(states[-1], updates))
    alone = {"a0": 0, "a1": 0, "b0": 1, "c0": 2, "c1": 2, "c2": 3}
    assert [s.assignment for s in states[1:3]] == [alone] * 2, "after rounds 0 and 1"
    assert all(s.assignment == {**alone, "c2": 2} for s in states[3:])
    assert len(states[-1].experts) == 3 and states[-1].allocation.unsure == ("b0",)
    (note,) = [note for note in states[-1].notes if "joined" in note]
    assert re.fullmatch(
        r"after round 2 client 'c2', which had not learnt its task before, joined expert 3, same task: [\d.]+ ± [\d.]+",
        note,
    )
    assert "'c2' has not learnt" in " ".join(states[1].allocation.warnings)


def test_a_late_client_on_halves_is_placed_or_kept_out_by_both() -> None:
    whole_method: Any = make_method("fedlease-plus", Terms(BUDGET), {})
    state = whole_method.init(adapter(), {"a0": 40, "a1": 40, "b0": 40, "b1": 40}, 0)
    while state.round < 2:
        tasks = {c: task for c in sorted(state.clients) if (task := whole_method.task(state, c)) is not None}
        state = whole_method.aggregate(state, [answer(c, task, 40) for c, task in tasks.items()])
    for client, group in (("b9", "b0"), ("z9", None)):
        admitted = whole_method.admit(state, client, 40)
        task = first_task(whole_method, admitted, client)
        assert task.halves
        after = whole_method.aggregate(admitted, [answer(client, task, 40)])
        assert whole_method.model(after, client).tensors.keys() == adapter().tensors.keys()
        assert after.assignment.get(client) == (after.assignment[group] if group else None)


def test_the_first_experts_are_means_over_clients_of_the_sum_of_their_halves() -> None:
    halves = method(average="factors")
    state = warmed(halves, {"a0": 40, "a1": 40, "b0": 40})
    name = f"{next(iter(SHAPES))}/B/0"
    first = halves.init(adapter(), {"a0": 40, "a1": 40, "b0": 40}, 0)
    tensors = [answer(c, first_task(halves, first, c), 40).tensors for c in ("a0", "a1")]
    sums = [t[name] + t[name[:-1] + "1"] for t in tensors]
    assert torch.allclose(state.experts[0][name], (sums[0] + sums[1]) / 2)
    name = name.replace("/B/", "/A/")
    assert torch.allclose(state.experts[0][name], tensors[0][name])


@pytest.mark.parametrize("fewer", [{"a0": 15, "b0": 9}])
def test_where_nobody_has_rows_for_halves_one_expert_is_trained_by_all(fewer: dict[str, int]) -> None:
    state = warmed(method(), fewer)
    assert len(state.experts) == 1 and any("enough rows" in note for note in state.allocation.warnings)


def test_halves_are_grouped_by_their_sketches_and_rounds_begin_once_the_warm_ups_are_summed() -> None:
    """A client with few rows makes more passes than E, as ever; its sketch is compared as B is."""
    built: Any = make_method("fedlease-plus", Terms(BUDGET, sketch=24, least=1), {"average": "factors"})
    while not isinstance(built, Halves):
        built = built.method
    clients = {"a0": 40, "a1": 40, "b0": 40, "b1": 40, "b2": 40}
    state = built.init(adapter(), clients, 0)
    first = first_task(built, state, "a0")
    assert first.halves and first.sketch is not None and first.sketch.signal == "BA"
    assert {tuple(tensor.shape) for tensor in first.expected.values()} == {(12, 1)} and len(first.expected) == 4
    state = built.aggregate(state, [answer(c, first_task(built, state, c), rows) for c, rows in clients.items()])
    assert state.round == 0 and state.assignment == {"a0": 0, "a1": 0, "b0": 1, "b1": 1, "b2": 1}
    assert not state.halves and built.model(state, "a0").warmed
    # Who comes now sends sketches too, and is placed by them.
    state = built.admit(state, "b9", 40)
    tasks = {c: first_task(built, state, c) for c in sorted(state.clients)}
    assert tasks.pop("b9").halves and {task.phase for task in tasks.values()} == {"start"}
    late = answer("b9", first_task(built, state, "b9"), 40)
    after = built.aggregate(state, [late, *(answer(c, task, clients[c]) for c, task in tasks.items())])
    assert after.round == 1 and len(after.experts) == 2 and after.assignment["b9"] == 1 and not after.passes["b9"] > 2
    assert first_task(built, after, "a0").phase == "experts"
