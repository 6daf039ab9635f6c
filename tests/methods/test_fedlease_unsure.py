"""Clients that have not learnt their task: which experts they compare, and what becomes of them once one fits."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.planted import adapter
from methods.test_fedlease_halves import answer, first_task

from fedlease.core.types import AdapterSpec, Budget, ClientModel, ClientUpdate
from fedlease.methods.base import Terms
from fedlease.methods.registry import make_method

CLIENTS = {"a0": 40, "a1": 40, "b0": 40, "c0": 40, "c1": 40, "c2": 40}
UNLEARNT = ("b0", "c2")
ALONE = {"a0": 0, "a1": 0, "b0": 1, "c0": 2, "c1": 2, "c2": 3}


def method(*, max_experts: int = 8, private: bool = False, rounds: int = 4, **own: Any) -> Any:
    terms = Terms(Budget(2, rounds), max_experts=max_experts, private=private)
    return make_method("fedlease-plus", terms, {"average": "factors", **own})


def after(built: Any, state: Any, choices: Mapping[str, int]) -> Any:
    """The state after a step in which unsure clients choose so; 0 where nothing is said."""
    updates = []
    for client in sorted(state.clients):
        task = first_task(built, state, client)
        update = answer(client, task, 40, learnt=client not in UNLEARNT)
        updates.append(replace(update, choice=choices.get(client, 0) if task.model.candidates else None))
    return built.aggregate(state, updates)


def allocated(built: Any) -> Any:
    state = after(built, built.init(adapter(), CLIENTS, 0), {})
    assert state.round == 1 and state.assignment == ALONE and {*state.allocation.unsure} == {*UNLEARNT}
    return state


def test_who_has_not_learnt_compares_the_experts_of_all_others_with_its_own_warm_up() -> None:
    built = method()
    state = allocated(built)
    for client in CLIENTS:
        model = first_task(built, state, client).model
        if client not in UNLEARNT:
            assert not model.candidates and not model.reference
            continue
        others = (expert for expert in range(4) if expert != ALONE[client])
        assert model.reference
        for given, expert in zip(model.candidates, (ALONE[client], *others), strict=True):
            assert all(torch.equal(given[name], tensor) for name, tensor in state.experts[expert].items())


def test_as_long_as_none_fits_it_trains_its_own_and_is_asked_again_with_the_same_warm_up() -> None:
    built = method()
    first = allocated(built)
    second = after(built, first, {})
    assert second.assignment == ALONE and {*second.allocation.unsure} == {*UNLEARNT}
    before, now = (first_task(built, state, "c2").model for state in (first, second))
    assert not all(torch.equal(before.tensors[name], tensor) for name, tensor in now.tensors.items())
    assert all(torch.equal(before.candidates[0][name], tensor) for name, tensor in now.candidates[0].items())
    assert not all(torch.equal(before.candidates[1][name], tensor) for name, tensor in now.candidates[1].items())


def test_who_chooses_joins_at_once_and_for_good() -> None:
    built = method()
    first = allocated(built)
    joined = after(built, first, {"c2": 3})
    assert joined.assignment == {**ALONE, "c2": 2} and len(joined.experts) == 3
    assert joined.allocation.unsure == ("b0",) and joined.allocation.assignment == joined.assignment
    # Its update is in the mean of the group that it has joined.
    plain = after(built, first, {})
    name = next(name for name in joined.experts[2] if "/B/" in name)
    own = answer("c2", first_task(built, first, "c2"), 40, learnt=False).tensors[name]
    assert torch.allclose(joined.experts[2][name], (2 * plain.experts[2][name] + own) / 3, atol=1e-6)
    (note,) = [note for note in joined.notes if "joined" in note]
    assert note.startswith("in round 1 client 'c2', which had not learnt its task before, joined expert 3, which fits")
    assert not first_task(built, joined, "c2").model.candidates
    assert first_task(built, joined, "b0").model.candidates
    last = after(built, joined, {"b0": 1})
    assert last.assignment == {"a0": 0, "a1": 0, "b0": 0, "c0": 1, "c1": 1, "c2": 1} and len(last.experts) == 2


def test_two_may_join_in_one_round_and_so_may_one_whose_group_re_allocation_has_renumbered() -> None:
    built = method(reallocate=1)
    state = after(built, allocated(built), {"b0": 1, "c2": 3})
    assert state.assignment == {"a0": 0, "a1": 0, "b0": 0, "c0": 1, "c1": 1, "c2": 1}
    assert not state.allocation.unsure and len([note for note in state.notes if "joined" in note]) == 2


@pytest.mark.parametrize(
    ("choices", "assignment"),
    [
        # Each takes the other's expert: one expert is trained by both.
        ({"b0": 3, "c2": 2}, {"a0": 0, "a1": 0, "b0": 1, "c0": 2, "c1": 2, "c2": 1}),
        # b0 takes the expert of c2, which leaves it for that of c's: both are with c's.
        ({"b0": 3, "c2": 3}, {"a0": 0, "a1": 0, "b0": 1, "c0": 1, "c1": 1, "c2": 1}),
        # c2 has not chosen, and is not alone any more.
        ({"b0": 3}, {"a0": 0, "a1": 0, "b0": 1, "c0": 2, "c1": 2, "c2": 1}),
    ],
)
def test_choices_may_cross(choices: dict[str, int], assignment: dict[str, int]) -> None:
    built = method()
    state = after(built, allocated(built), choices)
    assert state.assignment == assignment and not state.allocation.unsure
    assert len(state.experts) == len({*assignment.values()})
    assert not any(first_task(built, state, client).model.candidates for client in CLIENTS)


def test_it_compares_the_experts_with_the_most_clients_where_there_are_many() -> None:
    clients = {**CLIENTS, "c3": 40, "d0": 40, "d1": 40}
    built = method(max_experts=2)
    state = after(built, built.init(adapter(), clients, 0), {})
    assert state.assignment == {**ALONE, "c3": 2, "d0": 4, "d1": 4}
    candidates = first_task(built, state, "c2").model.candidates
    # Of three experts that were learnt c's has three clients, and a's comes before d's.
    for given, expert in zip(candidates, (ALONE["c2"], 0, 2), strict=True):
        assert all(torch.equal(given[name], tensor) for name, tensor in state.experts[expert].items())


@pytest.mark.parametrize("own", [{"unsure": "alone"}, {"routing": "top-m"}])
def test_nobody_compares_where_it_is_not_asked_for_or_experts_are_mixed(own: dict[str, Any]) -> None:
    built = method(**own)
    assert not any(first_task(built, allocated(built), client).model.candidates for client in CLIENTS)


def test_nobody_compares_within_epsilon() -> None:
    built = method(private=True)
    assert not any(first_task(built, allocated(built), client).model.candidates for client in CLIENTS)


def test_a_reference_is_left_for_what_is_clearly_better_alone() -> None:
    own, other = {"m/B/0": torch.ones(1)}, {"m/B/0": torch.zeros(1)}
    model = ClientModel(AdapterSpec(1, 1.0, 0.0, ("m",)), own, ({}, other), reference=True)
    assert [model.choose([1.0, loss]) for loss in (2.0, 1.0, 0.96, 0.94)] == [0, 0, 0, 1]
    assert model.choose([1.0, 0.9, 0.8]) == 2
    assert model.chosen(0) == {} and model.chosen(None) == {} and model.chosen(1) is other
    plain = replace(model, reference=False)
    assert plain.choose([1.0, 0.96]) == 1 and plain.chosen(0) == {} and plain.chosen(1) is other


def test_whoever_is_absent_is_asked_again() -> None:
    built = method()
    state = allocated(built)
    updates: list[ClientUpdate] = [answer(c, first_task(built, state, c), 40) for c in ("a0", "a1", "c0", "c1")]
    later = built.aggregate(state, updates, frozenset(UNLEARNT))
    assert later.round == 2 and first_task(built, later, "c2").model.candidates
