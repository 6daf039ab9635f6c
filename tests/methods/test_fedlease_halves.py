"""FedLEASE on halves: who is asked how long, who groups with whom, and what becomes of those who have not learnt."""

import re
from dataclasses import replace
from operator import itemgetter
from typing import Any

import pytest
import torch
from contract.planted import SHAPES, adapter

from fedlease.core.adapters import renumber
from fedlease.core.seeds import generator
from fedlease.core.types import Budget, ClientTask, ClientUpdate
from fedlease.methods import fedlease_halves
from fedlease.methods.base import Terms
from fedlease.methods.fedlease_halves import Halves
from fedlease.methods.registry import make_method
from fedlease.methods.warmup import WARMUP

BUDGET = Budget(warmup_epochs=2, rounds=8)


def method(budget: Budget = BUDGET, *, same_passes: bool = False, **own: Any) -> Halves:
    built: Any = make_method("fedlease-plus", Terms(budget, same_passes=same_passes), own)
    while not isinstance(built, Halves):
        built = built.method
    return built


def answer(client: str, task: ClientTask, rows: int, *, learnt: bool = True, choice: int | None = None) -> ClientUpdate:
    """Halves that have all of the task in common, or nothing; the task is the first letter of the client."""
    tensors = {}
    for name, like in task.expected.items():
        kind = name.rsplit("/", 1)[0]
        tensors[name] = torch.randn(like.shape, generator=generator(0, "task", client[0], kind))
        if "/B/" in name and not learnt:
            tensors[name] = torch.randn(like.shape, generator=generator(0, "noise", client, name))
        if "/A/" in name:
            tensors[name] = task.model.tensors[kind + "/0"]
    return ClientUpdate(client, task.phase, task.round, rows, tensors, choice, metrics={"loss": 0.5})


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
    halves, clients = method(same_passes=True), {"a0": 2, "a1": 40, "a2": 800}
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


def test_who_is_sure_half_way_makes_the_other_passes_in_the_first_round() -> None:
    halves, clients = method(Budget(4, 4), early_groups=True), {"a0": 40, "a1": 40, "b0": 40, "b1": 40, "c0": 10}
    state = halves.init(adapter(), clients, 0)
    tasks = {client: first_task(halves, state, client) for client in clients}
    # Few rows are not divided at all.
    assert {c: (t.halves, t.stages[0].epochs) for c, t in tasks.items()} == {
        **dict.fromkeys(("a0", "a1", "b0", "b1"), (True, 2)),
        "c0": (False, 4),
    }
    state = halves.aggregate(state, [answer(c, task, clients[c]) for c, task in tasks.items()])
    assert state.round == 1 and state.notes == ("clients were grouped half-way through the warm-up",)
    for lacking in (2, 0):
        tasks = {client: first_task(halves, state, client) for client in clients}
        assert [tasks[client].stages[0].epochs for client in sorted(clients)] == [1 + lacking] * 4 + [1]
        state = halves.aggregate(state, [answer(c, task, clients[c]) for c, task in tasks.items()])


def test_who_is_unsure_half_way_goes_on_with_its_halves_and_all_are_grouped_again() -> None:
    halves, clients = method(Budget(4, 4), early_groups=True), {"a0": 40, "a1": 40, "b0": 40, "b1": 40, "c0": 10}
    state = halves.init(adapter(), clients, 0)
    updates = [answer(c, first_task(halves, state, c), clients[c], learnt=c != "b0") for c in clients]
    # In two steps, as over a network.
    state = halves.aggregate(halves.aggregate(state, updates[:3]), updates[3:])
    assert state.round == 0 and [c for c in clients if halves.task(state, c)] == ["b0"]
    (note,) = state.notes
    assert note == "half-way through the warm-up the groups of 1 of 5 clients were not sure, which went on: b0"
    again = first_task(halves, state, "b0")
    assert again.phase == WARMUP and again.halves and again.stages[0].epochs == 2
    for half, start in enumerate(again.model.candidates):
        mine = {name: t for name, t in updates[2].tensors.items() if name.endswith(f"/{half}")}
        assert all(start[name].equal(tensor) for name, tensor in renumber(mine, 0).items())
    state = halves.aggregate(state, [answer("b0", again, 40)])
    assert state.round == 1 and state.assignment == {"a0": 0, "a1": 0, "b0": 1, "b1": 1, "c0": 2}
    epochs = {client: first_task(halves, state, client).stages[0].epochs for client in clients}
    assert epochs == {"a0": 3, "a1": 3, "b0": 1, "b1": 3, "c0": 1}


def test_all_clients_of_a_group_go_on_if_one_of_them_is_not_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    halves, clients = method(early_groups=True), dict.fromkeys(("a0", "a1", "a2", "b0", "b1"), 40)
    start = halves.init(adapter(), clients, 0)
    updates = {c: answer(c, first_task(halves, start, c), 40) for c in clients}
    noise = answer("a2", first_task(halves, start, "a2"), 40, learnt=False).tensors
    updates["a2"] = replace(updates["a2"], tensors={name: t + noise[name] for name, t in updates["a2"].tensors.items()})
    sure = halves.aggregate(start, list(updates.values()))
    least, bound, *_ = sorted(sure.allocation.evidence.items(), key=itemgetter(1))
    assert sure.round == 1 and least[0] == "a2" and least[1] < bound[1]
    monkeypatch.setattr(fedlease_halves, "SURE", bound[1])
    state = halves.aggregate(start, list(updates.values()))
    assert [client for client in clients if halves.task(state, client)] == ["a0", "a1", "a2"]


def test_groups_are_early_only_where_passes_are_left_for_later() -> None:
    clients = {"a0": 40, "a1": 40, "b0": 40}
    for budget, same, passes in ((Budget(1, 4), False, 1), (Budget(4, 0), False, 4), (Budget(4, 4), True, 4)):
        halves = method(budget, same_passes=same, early_groups=True)
        task = first_task(halves, halves.init(adapter(), clients, 0), "a0")
        assert task.stages[0].epochs == passes
        assert warmed(halves, clients, unlearnt="b").allocation.unsure == ("b0",), "and is not asked again"
    # Three passes are two and one; who comes later makes them all on its halves.
    late = method(Budget(3, 4), early_groups=True)
    state = warmed(late, clients)
    assert first_task(late, late.init(adapter(), clients, 0), "a0").stages[0].epochs == 2
    assert first_task(late, state, "a0").stages[0].epochs == 1 + 1
    assert first_task(late, late.admit(state, "b9", 40), "b9").stages[0].epochs == 3


@pytest.mark.parametrize("early", [False, True])
def test_every_client_makes_the_passes_of_the_budget(early: bool) -> None:
    halves, clients = method(early_groups=early), {"a0": 50, "a1": 200, "a2": 800, "b0": 200, "b1": 200}
    state, passes = halves.init(adapter(), clients, 0), dict.fromkeys(clients, 0)
    while tasks := {c: task for c in sorted(clients) if (task := halves.task(state, c)) is not None}:
        for client, task in tasks.items():
            passes[client] += task.stages[0].epochs
        choices = {client: 0 if task.refit else None for client, task in tasks.items()}
        updates = [answer(c, t, clients[c], learnt=c != "b1", choice=choices[c]) for c, t in tasks.items()]
        state = halves.aggregate(state, updates)
    assert state.round == BUDGET.rounds + 1
    assert passes == dict.fromkeys(clients, BUDGET.passes)


def test_the_first_of_early_looks_is_after_half_of_e_whatever_the_rows_and_who_goes_on_makes_equal_steps() -> None:
    # The upper quartiles are 100 and 500; of 500 rows one pass is as many steps as all should make.
    for epochs, rows, every, first in (
        (2, (50, 100, 100, 100, 200), [4, 2, 2, 2, 1], [1, 1, 1, 1, 1]),
        (4, (50, 200, 800), [6, 4, 1], [2, 2, 1]),
    ):
        clients = {f"a{place}": count for place, count in enumerate(rows)}
        late, early = (method(Budget(epochs, 8), early_groups=early) for early in (False, True))
        for halves, passes in ((late, every), (early, first)):
            state = halves.init(adapter(), clients, 0)
            tasks = {client: first_task(halves, state, client) for client in clients}
            assert [task.stages[0].epochs for task in tasks.values()] == passes
        state = early.aggregate(state, [answer(c, task, clients[c], learnt=False) for c, task in tasks.items()])
        lacking = {c: early.task(state, c) for c in clients}
        assert [task.stages[0].epochs if task else 0 for task in lacking.values()] == [
            whole - made for whole, made in zip(every, first, strict=True)
        ]


def test_where_nobody_has_learnt_one_expert_is_trained_by_all() -> None:
    halves, clients = method(), {"a0": 40, "a1": 40, "b0": 40}
    state = warmed(halves, clients, unlearnt="ab")
    assert len(state.experts) == 1 and state.allocation.unsure == ("a0", "a1", "b0")
    assert any("no client has learnt" in note for note in state.allocation.warnings)
    assert not state.unsure, "there is nothing to choose from"


def test_an_unsure_client_joins_the_expert_that_it_chose_by_loss() -> None:
    halves, clients = method(unsure="loss"), {"a0": 40, "a1": 40, "b0": 40, "c0": 40, "c1": 40}
    state = warmed(halves, clients, unlearnt="b")
    assert state.assignment == {"a0": 0, "a1": 0, "b0": 1, "c0": 2, "c1": 2}
    task = first_task(halves, state, "b0")
    assert task.refit and len(task.model.candidates) == 4
    mine = answer("b0", first_task(halves, halves.init(adapter(), clients, 0), "b0"), 40, learnt=False).tensors
    for half, candidate in enumerate(task.model.candidates[:2]):
        assert all(candidate[name].equal(mine[name[:-1] + str(half)]) for name in candidate)
    for candidate, expert in zip(task.model.candidates[2:], (0, 2), strict=True):
        assert all(candidate[name].equal(state.experts[expert][name]) for name in candidate)
    others = [answer(c, first_task(halves, state, c), 40) for c in ("a0", "a1", "c0", "c1")]
    joined = halves.aggregate(state, [*others, answer("b0", task, 40, choice=3)])
    assert joined.assignment == {"a0": 0, "a1": 0, "b0": 1, "c0": 1, "c1": 1} and len(joined.experts) == 2
    assert (state.centroids.experts, joined.centroids.experts) == ((0, 2), (0, 1)), "late clients find the same experts"
    assert all(t.equal(state.centroids.b[module]) for module, t in joined.centroids.b.items())
    assert any("expert 2 has one client, 'b0'" in note for note in state.allocation.warnings)
    assert not any("has one client" in note for note in joined.allocation.warnings), "it no longer stands alone"
    assert joined.allocation.num_experts == 2 and "'b0'" in joined.notes[-1] and "c0" in joined.notes[-1]
    alone = halves.aggregate(state, [*others, answer("b0", task, 40, choice=0)])
    assert alone.assignment == state.assignment and "stays alone" in alone.notes[-1]
    assert not first_task(halves, alone, "b0").refit, "it chooses once"


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


def test_who_does_not_answer_when_it_is_to_go_on_is_grouped_by_what_it_has_learnt() -> None:
    halves, clients = method(early_groups=True), {"a0": 40, "a1": 40, "b0": 40}
    state = halves.init(adapter(), clients, 0)
    updates = [answer(c, first_task(halves, state, c), 40, learnt=c != "b0") for c in clients]
    state = halves.aggregate(state, updates)
    assert halves.model(state, "b0").tensors.keys() == adapter().tensors.keys()
    state = halves.aggregate(state, [], absent={"b0"})
    assert state.round == 1 and state.allocation.unsure == ("b0",) and state.assignment["b0"] == 1
    assert first_task(halves, state, "b0").phase != WARMUP, "it made no more than E passes"


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
    assert torch.allclose(state.experts[0][name], (tensors[0][name] + tensors[0][name[:-1] + "1"]) / 2)


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


def test_of_sketches_who_is_unsure_half_way_goes_on_with_the_halves_that_it_has_kept() -> None:
    built: Any = make_method("fedlease-plus", Terms(Budget(4, 4), sketch=24), {"early_groups": True})
    while not isinstance(built, Halves):
        built = built.method
    clients = {"a0": 40, "a1": 40, "b0": 40, "b1": 40}
    state = built.init(adapter(), clients, 0)
    state = built.aggregate(
        state, [answer(c, first_task(built, state, c), rows, learnt=c != "b0") for c, rows in clients.items()]
    )
    assert state.round == 0 and [c for c in clients if built.task(state, c)] == ["b0"]
    again = first_task(built, state, "b0")
    assert again.goes_on and again.model.warmed and again.model.candidates == () and again.stages[0].epochs == 2
    assert again.sketch is not None and {tuple(tensor.shape) for tensor in again.expected.values()} == {(12, 1)}
    state = built.aggregate(state, [answer("b0", again, 40)])
    assert state.round == 0 and state.assignment == {"a0": 0, "a1": 0, "b0": 1, "b1": 1}
    starts = {c: first_task(built, state, c) for c in clients}
    assert {task.phase for task in starts.values()} == {"start"}
    state = built.aggregate(state, [answer(c, task, clients[c]) for c, task in starts.items()])
    epochs = {client: first_task(built, state, client).stages[0].epochs for client in clients}
    assert state.round == 1 and epochs == {"a0": 3, "a1": 3, "b0": 1, "b1": 3}
