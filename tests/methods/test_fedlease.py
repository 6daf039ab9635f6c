"""FedLEASE on planted groups, where every result can be derived by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, SHAPES, adapter, constant, made, train

from fedlease.core.types import Budget, ClientUpdate, TensorName
from fedlease.errors import RunFailedError
from fedlease.methods.fedlease import FedLease, FedLeaseState

METHOD = FedLease(Budget(warmup_epochs=2, rounds=3))


def allocated(method: Any = METHOD) -> Any:
    state = method.init(adapter(), CLIENTS, 0)
    updates = [train(client, method.task(state, client), rows) for client, rows in CLIENTS.items()]  # type: ignore[arg-type]
    return method.aggregate(state, updates)


def updates_of(state: FedLeaseState, *clients: str) -> list[Any]:
    return [train(client, METHOD.task(state, client), CLIENTS[client]) for client in clients]  # type: ignore[arg-type]


def test_planted_groups_get_one_expert_each() -> None:
    state = allocated()
    assert state.allocation is not None
    assert state.allocation.num_experts == 2
    assert state.assignment == {"a0": 0, "a1": 0, "a2": 0, "b0": 1, "b1": 1, "b2": 1}
    assert not any(state.warmup.results.values())


def test_warmup_starts_everyone_from_the_same_adapter_with_b_zero() -> None:
    state = METHOD.init(adapter(), CLIENTS, 0)
    tasks = [METHOD.task(state, client) for client in CLIENTS]
    for task in tasks:
        assert task is not None and task.stages[0].epochs == 2
        for name, tensor in task.model.tensors.items():
            assert tensor is adapter_of(state)[name]
            assert TensorName.parse(name).kind != "B" or not tensor.any()


def adapter_of(state: FedLeaseState) -> Any:
    return state.adapter.tensors


def test_experts_start_as_the_mean_weighted_by_rows() -> None:
    """Group a has 10, 20, 30 rows: with constant warm-ups 1, 2, 3 the mean is (10 + 40 + 90) / 60 = 7 / 3."""
    state = METHOD.init(adapter(), CLIENTS, 0)
    updates = [train(client, METHOD.task(state, client), rows) for client, rows in CLIENTS.items()]  # type: ignore[arg-type]
    a_scaled = {
        update.client: replace(
            update,
            tensors={
                name: torch.full_like(tensor, float(update.client[1]) + 1) if "/A/" in name else tensor
                for name, tensor in update.tensors.items()
            },
        )
        for update in updates
    }
    after = METHOD.aggregate(state, list(a_scaled.values()))
    for module in SHAPES:
        expert = after.experts[0][f"{module}/A/0"]
        assert torch.allclose(expert, torch.full_like(expert, 7 / 3))
    uniform = replace(METHOD, weights="uniform").aggregate(state, list(a_scaled.values()))
    for module in SHAPES:
        expert = uniform.experts[0][f"{module}/A/0"]
        assert torch.allclose(expert, torch.full_like(expert, 2.0))


def test_rounds_average_expert_and_router_within_the_cluster() -> None:
    """Constants 1, 2, 3 in group a with 10, 20, 30 rows give 7 / 3; group b sends nothing and keeps its own."""
    state = allocated()
    updates = [constant(update, i + 1.0) for i, update in enumerate(updates_of(state, "a0", "a1", "a2"))]
    after = METHOD.aggregate(state, updates)
    for tensor in (*after.experts[0].values(), *after.routers[0].values()):
        assert torch.allclose(tensor, torch.full_like(tensor, 7 / 3))
    for before, kept in ((state.experts[1], after.experts[1]), (state.routers[1], after.routers[1])):
        assert before.keys() == kept.keys()
        assert all(torch.equal(before[name], kept[name]) for name in before)
    assert after.round == state.round + 1


def test_a_client_trains_only_its_own_expert_and_router_and_receives_all() -> None:
    state = allocated()
    task = METHOD.task(state, "b0")
    assert task is not None
    assert task.model.spec.own == 1 and task.model.spec.num_experts == 2
    parsed = {TensorName.parse(name) for name in task.upload}
    assert {name.expert for name in parsed if name.kind in "AB"} == {1}
    assert {name.module for name in parsed if name.kind == "G"} == set(SHAPES)
    assert task.upload == task.trainable
    received = {TensorName.parse(name).expert for name in task.model.tensors}
    assert received == {0, 1, None}


def test_routers_start_random_equal_for_all_clusters_and_never_zero() -> None:
    state = allocated()
    first, second = state.routers
    assert first.keys() == second.keys() == {f"{module}/G" for module in SHAPES}
    for name, router in first.items():
        features = SHAPES[name.rsplit("/", 1)[0]][0]
        assert torch.equal(router, second[name])
        assert router.shape == (3, features)
        assert router.abs().max() <= features**-0.5 and bool((router != 0).all())


def test_one_expert_means_plain_lora_without_router() -> None:
    method = replace(METHOD, min_silhouette=1.0)
    state = allocated(method)
    task = method.task(state, "a0")
    assert task is not None
    assert task.model.spec.mixer == "none" and task.model.spec.num_experts == 1
    assert all(TensorName.parse(name).kind in "AB" for name in task.model.tensors)
    after = method.aggregate(state, [train("a0", task, 10)])
    assert after.round == state.round + 1


def test_variants_reach_the_spec() -> None:
    method = made("fedlease", METHOD.budget, renormalise=False, top_k=1)
    model = method.model(allocated(method), "a0")
    assert model.spec.renormalise is False and model.spec.top_k == 1


def test_more_slots_than_the_experts_make_are_all_kept_and_said() -> None:
    """Two experts make three slots."""
    method = made("fedlease", METHOD.budget, top_k=4)
    state = allocated(method)
    assert len(state.experts) == 2 and method.model(state, "a0").spec.top_k == 3
    assert state.notes == ("fedlease.top_k: 4 slots should be kept, but 2 experts have only 3, so all are kept",)
    assert allocated(made("fedlease", METHOD.budget, top_k=3)).notes == ()


def test_no_warmup_at_all_is_a_named_failure() -> None:
    state = METHOD.init(adapter(), CLIENTS, 0)
    state = METHOD.aggregate(state, [], absent=set(CLIENTS))
    assert state.round == 0
    with pytest.raises(RunFailedError, match="no client's warm-up could be used"):
        METHOD.aggregate(state, [], absent=set(CLIENTS))


def late_two(method: Any) -> tuple[Any, list[ClientUpdate]]:
    """One newcomer like the b's, one like nobody."""
    state = method.admit(method.admit(allocated(method), "b9", 5), "z0", 5)
    return state, [train(client, method.task(state, client), 5) for client in ("b9", "z0")]


def test_a_late_client_goes_to_its_group_and_one_unlike_any_is_kept_out() -> None:
    method = made("fedlease", METHOD.budget)
    after = method.aggregate(*late_two(method))
    assert after.assignment["b9"] == 1
    assert "z0" not in after.assignment and after.kept_out.keys() == {"z0"}
    assert [line for line in after.notes if "'z0'" in line and "kept out: it is unlike every expert" in line]
    assert len(after.notes) == 2 and "'b9'" in after.notes[1]
    # It has nothing to do, and its own warm-up in the meantime.
    assert method.task(after, "z0") is None
    assert method.model(after, "z0").tensors == after.kept_out["z0"]


def test_who_is_kept_out_is_placed_once_admitted_or_from_the_start_where_so_set() -> None:
    method = made("fedlease", METHOD.budget)
    waiting = method.aggregate(*late_two(method))
    admitting = replace(method, admitted=("z0",))
    inside = admitting.aggregate(waiting, [])
    assert inside.kept_out == {} and inside.round == waiting.round + 1
    assert "was placed with expert" in inside.notes[-1] and "farther than any" in inside.notes[-1]
    task = admitting.task(inside, "z0")
    assert task is not None and task.phase == "experts"
    placing = made("fedlease", METHOD.budget, unlike="place")
    assert placing.aggregate(*late_two(placing)).assignment["z0"] == inside.assignment["z0"]
    # A run may be resumed with the other rule, in either direction.
    assert placing.aggregate(waiting, []).assignment == inside.assignment
    assert method.task(placing.aggregate(*late_two(placing)), "z0") is not None
