"""Groups that are formed again between rounds: six clients whose uploads a test writes itself."""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, made, within

from fedlease.core.adapters import initial_router
from fedlease.core.codec import dumps, loads
from fedlease.core.placement import place
from fedlease.core.seeds import generator
from fedlease.core.types import Budget, ClientTask, ClientUpdate, TensorName
from fedlease.errors import RunFailedError
from fedlease.methods.fedlease_reallocation import moved_clients

ONE_LETTER = {client: client[0] for client in CLIENTS}
METHOD = made("fedlease", Budget(2, 4), reallocate=1)


def upload(client: str, task: ClientTask, letter: str) -> ClientUpdate:
    """B in the direction of a letter, A filled with the digit of the client, routers with ones."""
    tensors = {}
    for name in sorted(task.upload):
        module, kind, _ = TensorName.parse(name)
        like = task.model.tensors[name]
        noise = torch.randn(like.shape, generator=generator(0, client, task.round, name))
        direction = torch.randn(like.shape, generator=generator(0, letter, module))
        tensors[name] = direction + 0.05 * noise if kind == "B" else torch.full_like(like, float(client[1]))
    return ClientUpdate(client, task.phase, task.round, CLIENTS.get(client, 5), tensors)


def step(method: Any, state: Any, letters: Mapping[str, str]) -> Any:
    tasks = {client: task for client in letters if (task := method.task(state, client)) is not None}
    return method.aggregate(state, [upload(client, task, letters[client]) for client, task in tasks.items()])


def allocated(method: Any = METHOD) -> Any:
    state = step(method, method.init(adapter(), CLIENTS, 0), ONE_LETTER)
    assert state.assignment == {"a0": 0, "a1": 0, "a2": 0, "b0": 1, "b1": 1, "b2": 1}
    return state


MOVED = {**ONE_LETTER, "a2": "b"}
THREE = {**ONE_LETTER, "a2": "c", "b2": "c"}


def test_a_client_whose_upload_moved_changes_its_group() -> None:
    state = allocated()
    after = step(METHOD, state, MOVED)
    assert after.assignment == {"a0": 0, "a1": 0, "a2": 1, "b0": 1, "b1": 1, "b2": 1}
    assert after.allocation is not None and after.allocation.assignment == after.assignment
    # A of expert 0: (10 x 0 + 20 x 1) / 30; of expert 1: (30 x 2 + 10 x 0 + 20 x 1 + 30 x 2) / 90.
    for expert, mean in ((0, 20 / 30), (1, 140 / 90)):
        a = after.experts[expert]["layer.0.query/A/0"]
        assert torch.allclose(a, torch.full_like(a, mean))
    assert after.notes == (
        "after round 1 the clients were grouped again: 2 experts became 2, and 6 of 6 clients are with others than "
        "before; routers start anew",
    )
    # As many experts as before, but not the same ones: what routers have learnt does not hold.
    assert [dumps(router) for router in within(after, "routers")] == [dumps(initial_router(adapter(), 2, 0))] * 2
    blob = dumps(after)
    assert dumps(loads(blob)) == blob


def test_with_another_number_of_experts_all_routers_start_anew() -> None:
    after = step(METHOD, allocated(), THREE)
    assert after.assignment == {"a0": 0, "a1": 0, "a2": 1, "b0": 2, "b1": 2, "b2": 1}
    fresh = initial_router(adapter(), 3, 0)
    assert len(after.experts) == 3
    assert [dumps(router) for router in within(after, "routers")] == [dumps(fresh)] * 3
    assert after.notes[0].startswith("after round 1 the clients were grouped again: 2 experts became 3, and 6 of 6")
    assert after.notes[0].endswith("; routers start anew")
    spec = METHOD.model(after, "a2").spec
    assert (spec.num_experts, spec.own) == (3, 1)
    # One group again, nothing but noise between them: no router that could start anew.
    strict = made("fedlease", METHOD.budget, reallocate=1, min_silhouette=0.5)
    one = step(strict, after, dict.fromkeys(CLIENTS, "a"))
    assert len(one.experts) == 1 and within(one, "routers") == ({},)
    assert strict.model(one, "a0").spec.mixer == "none"


def test_groups_that_stay_are_left_as_they_are() -> None:
    """No warning, the allocation of the warm-up, and exactly the state of a run that allocates once."""
    once = made("fedlease", METHOD.budget)
    state, other = allocated(), allocated(once)
    for _ in range(2):
        before = state.allocation
        state, other = step(METHOD, state, ONE_LETTER), step(once, other, ONE_LETTER)
        assert state.allocation is before and state.notes == ()
        assert dumps((state.experts, within(state, "routers"))) == dumps((other.experts, within(other, "routers")))


def test_it_happens_after_every_so_many_rounds_and_not_after_the_last() -> None:
    second = made("fedlease", METHOD.budget, reallocate=2)
    state = step(second, allocated(second), MOVED)
    assert state.assignment["a2"] == 0
    assert step(second, state, MOVED).assignment["a2"] == 1
    last = made("fedlease", Budget(2, 1), reallocate=1)
    assert step(last, allocated(last), MOVED).assignment["a2"] == 0


def test_clients_who_were_not_asked_count_with_what_they_sent_last() -> None:
    second = made("fedlease", METHOD.budget, reallocate=2)
    state = step(second, allocated(second), MOVED)
    state = step(second, state, {"a0": "a", "b0": "b"})
    assert state.assignment["a2"] == 1
    # Nobody at all: nothing moves.
    third = made("fedlease", METHOD.budget, reallocate=1)
    state = third.aggregate(allocated(third), [])
    assert state.notes == () and state.round == 2


def test_late_clients_are_still_placed_by_warm_ups() -> None:
    """After a2 went to group b, that group's warm-ups are those of a2 and of b's clients."""
    method = made("fedlease", METHOD.budget, reallocate=1, unlike="place")
    state = step(method, allocated(method), MOVED)
    state = method.admit(method.admit(state, "a9", 5), "b9", 5)
    after = step(method, state, {"a9": "a", "b9": "b", **MOVED})
    assert (after.assignment["a9"], after.assignment["b9"]) == (after.assignment["a0"], after.assignment["b0"])
    assert within(after, "uploads").keys() == within(after, "origins").keys() == after.assignment.keys()
    assert {TensorName.parse(f"{name}/B/0").kind for name in within(after, "origins")["a9"]} == {"B"}
    assert after.centroids is not None and len(after.centroids.units) == 2


def test_a_client_admitted_after_it_was_kept_out_keeps_its_warm_up_for_new_groups() -> None:
    """Its id sorts first, so that without its warm-up the centroids would be numbered otherwise than the experts."""
    letters = {**ONE_LETTER, "05": "c"}
    state = METHOD.admit(allocated(), "05", 5)
    state = step(METHOD, state, letters)
    assert state.kept_out.keys() == {"05"} and "05" not in within(state, "origins")
    admitting = replace(METHOD, admitted=("05",))
    state = step(admitting, state, letters)
    assert within(state, "uploads").keys() == within(state, "origins").keys() == {*CLIENTS, "05"}
    state = step(admitting, state, letters)
    assert state.assignment == {"05": 0, "a0": 1, "a1": 1, "a2": 1, "b0": 2, "b1": 2, "b2": 2}
    late = {"a9": "a", "b9": "b", "c9": "c"}
    for client in late:
        state = admitting.admit(state, client, 5)
    after = step(admitting.method.method, state.inner.inner, {**letters, **late})
    assert {client: after.assignment[client] for client in late} == {"a9": 1, "b9": 2, "c9": 0}


@pytest.mark.parametrize("seed", range(4))
def test_whoever_comes_when_experts_uploads_and_warm_ups_are_of_the_same_clients(seed: int) -> None:
    """Clients are sampled, come late, are kept out, admitted and moved: centroids are numbered as the experts are."""
    rng = random.Random(seed)
    letters, method = dict(ONE_LETTER), made("fedlease", Budget(1, 12), reallocate=rng.choice([1, 2]))
    state = step(method, method.init(adapter(), CLIENTS, 0), letters)
    heard = set(CLIENTS)
    for number in range(11):
        if rng.random() < 0.7:
            # Upper case and digits sort before, lower case after whoever is there.
            client = f"{rng.choice('0Aabz')}{number}"
            letters[client] = rng.choice("abcd")
            state = method.admit(state, client, 5)
        if rng.random() < 0.5:
            method = replace(method, admitted=tuple(sorted({*method.admitted, *state.kept_out})))
        moved = {client: rng.choice("abcd") if rng.random() < 0.1 else letter for client, letter in letters.items()}
        asked = {client: moved[client] for client in moved if rng.random() < 0.6}
        heard |= asked.keys()
        before, state = state.allocation, step(method, state, asked)
        assert heard - state.kept_out.keys() == state.assignment.keys(), "nobody loses an expert"
        assert within(state, "uploads").keys() == within(state, "origins").keys() == state.assignment.keys()
        assert not state.assignment.keys() & state.kept_out.keys()
        assert state.centroids is not None
        assert len(state.experts) == len(within(state, "routers")) == len(state.centroids.units)
        if state.allocation is before:
            continue  # not grouped again
        for expert, unit in enumerate(state.centroids.units):
            own = [distances_to(state, client)[expert] for client, e in state.assignment.items() if e == expert]
            # d of a member to the mean of unit vectors, averaged over the members, is 1 - |mean|^2 / |L|.
            assert sum(own) / len(own) == pytest.approx(1 - float(unit @ unit) / 2, abs=1e-6)


def distances_to(state: Any, client: str) -> tuple[float, ...]:
    assert state.centroids is not None
    return place(within(state, "origins")[client], state.centroids).distances


@pytest.mark.parametrize("signal", ["B", "A", "BA"])
def test_late_clients_are_held_against_b_whatever_the_groups_are_made_of(signal: Any) -> None:
    """A of a group is all but equal, B is not: by distances of A every newcomer would be unlike."""
    method = made("fedlease", METHOD.budget, signal=signal)

    def both(client: str, task: ClientTask) -> ClientUpdate:
        update = upload(client, task, client[0])
        tensors = dict(update.tensors)
        for name in tensors:
            module, kind, _ = TensorName.parse(name)
            if kind == "A":
                tensors[name] = torch.randn(tensors[name].shape, generator=generator(0, client[0], module, "A"))
        return replace(update, tensors=tensors)

    state = method.init(adapter(), CLIENTS, 0)
    state = method.aggregate(state, [both(c, task) for c in CLIENTS if (task := method.task(state, c))])
    assert state.assignment == {"a0": 0, "a1": 0, "a2": 0, "b0": 1, "b1": 1, "b2": 1}
    state = method.admit(state, "a9", 5)
    task = method.task(state, "a9")
    assert task is not None
    after = method.aggregate(state, [both("a9", task)])
    assert after.assignment["a9"] == 0 and not after.kept_out
    assert state.allocation is not None and state.centroids is not None
    reach = made("fedlease", METHOD.budget)
    plain = reach.init(adapter(), CLIENTS, 0)
    plain = reach.aggregate(plain, [both(c, task) for c in CLIENTS if (task := reach.task(plain, c))])
    assert plain.centroids is not None and state.centroids.reach == plain.centroids.reach


def alike(method: Any, state: Any) -> Any:
    """A step in which all clients upload the same."""
    tasks = {client: task for client in CLIENTS if (task := method.task(state, client)) is not None}
    sent = {name: torch.ones_like(tasks["a0"].model.tensors[name]) for name in tasks["a0"].upload}
    updates = []
    for client, task in tasks.items():
        tensors = {name: sent.get(name, torch.ones_like(task.model.tensors[name])) for name in task.upload}
        updates.append(ClientUpdate(client, task.phase, task.round, CLIENTS[client], tensors))
    return method.aggregate(state, updates)


def test_a_number_of_groups_among_clients_that_are_all_alike_is_one_sentence() -> None:
    method = made("fedlease", METHOD.budget, reallocate=1, num_experts=3)
    with pytest.raises(RunFailedError) as caught:
        alike(method, method.init(adapter(), CLIENTS, 0))
    assert str(caught.value) == (
        "fedlease: the clients cannot be grouped: num_experts: ties among the clients leave no grouping into 3"
    )


def test_groups_stay_where_new_ones_cannot_be_told_apart() -> None:
    method = made("fedlease", METHOD.budget, reallocate=1, num_experts=2)
    state = allocated(method)
    after = alike(method, state)
    assert after.assignment == state.assignment and after.round == state.round + 1
    assert after.notes == (
        "after round 1 the groups stay as they were: fedlease: the clients cannot be grouped: num_experts: ties among "
        "the clients leave no grouping into 2",
    )
    assert step(method, after, MOVED).assignment["a2"] == 1, "and the next time they are formed again"


def test_companions_count_and_numbers_do_not() -> None:
    assert moved_clients({"a": 0, "b": 0, "c": 1}, {"a": 7, "b": 7, "c": 3}) == []
    assert moved_clients({"a": 0, "b": 0, "c": 1}, {"a": 0, "b": 1, "c": 2}) == ["a", "b"]
