"""Clients of unequal ranks around FedLEASE: derived on matrices small enough to be written down."""

from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, made, train, within
from torch import Tensor

from fedlease.core.adapters import initial_adapter
from fedlease.core.types import Budget, ClientId, ClientUpdate, TensorName
from fedlease.methods.ranks import WithRanks, model_at
from fedlease.methods.warmup import WARMUP

RANKS = {"a1": 1, "b0": 1}
VARIANT: dict[str, Any] = {"signal": "BA", "average": "product", "min_silhouette": -1, "columns": 1}


def ranked(**changes: Any) -> WithRanks:
    return WithRanks(made("fedlease", Budget(1, 2, 1), **{**VARIANT, **changes}), 2, RANKS)


def products(tensors: Any, expert: int = 0) -> dict[str, Tensor]:
    """Module -> B A of an expert."""
    modules = {TensorName.parse(name).module for name in tensors if TensorName.parse(name).kind == "A"}
    return {m: tensors[f"{m}/B/{expert}"].double() @ tensors[f"{m}/A/{expert}"].double() for m in sorted(modules)}


def after(method: WithRanks, steps: int) -> Any:
    state = method.init(adapter(), CLIENTS, 0)
    for _ in range(steps):
        tasks = {client: task for client in sorted(CLIENTS) if (task := method.task(state, client)) is not None}
        state = method.aggregate(state, [train(client, task, CLIENTS[client]) for client, task in tasks.items()])
    return state


def test_before_training_a_client_has_the_first_rows_of_the_common_a_and_the_same_scale() -> None:
    method, start = ranked(), adapter()
    task = method.task(method.init(start, CLIENTS, 0), "a1")
    assert task is not None and task.phase == WARMUP
    # alpha_i = 4 x 1 / 2, so that alpha / r stays 2.
    assert (task.model.spec.r, task.model.spec.alpha) == (1, 2.0)
    for name, tensor in start.tensors.items():
        kind = TensorName.parse(name).kind
        assert torch.equal(task.model.tensors[name], tensor[:1] if kind == "A" else tensor[:, :1])


def test_the_mean_of_a_cluster_is_the_mean_of_its_products_whatever_the_ranks() -> None:
    # One cluster of two: B A = [[4, 0], [0, 0]] of rank 1 and weight 1, and [[0, 0], [0, 2]] of rank 2 and weight 3.
    # Mean: [[1, 0], [0, 1.5]]. At rank 1 the best approximation keeps the larger direction: [[0, 0], [0, 1.5]].
    def upload(client: ClientId, a: list[list[float]], b: list[list[float]], rows: int) -> ClientUpdate:
        return ClientUpdate(client, WARMUP, 0, rows, {"m/A/0": torch.tensor(a), "m/B/0": torch.tensor(b)})

    start = initial_adapter({"m": (2, 2)}, r=2, alpha=4, dropout=0.0, seed=0)
    method = WithRanks(made("fedlease", Budget(1, 1, 1), **VARIANT, num_experts=1), 2, {"low": 1})
    state = method.init(start, {"low": 1, "high": 3}, 0)
    low = upload("low", [[4.0, 0.0]], [[1.0], [0.0]], 1)
    high = upload("high", [[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 1.0]], 3)
    state = method.aggregate(state, [low, high])
    whole, cut = method.model(state, "high"), method.model(state, "low")
    assert torch.allclose(products(whole.tensors)["m"], torch.tensor([[1.0, 0.0], [0.0, 1.5]]).double(), atol=1e-6)
    assert torch.allclose(products(cut.tensors)["m"], torch.tensor([[0.0, 0.0], [0.0, 1.5]]).double(), atol=1e-6)
    assert cut.tensors["m/A/0"].shape == (1, 2) and cut.spec.alpha / cut.spec.r == whole.spec.alpha / whole.spec.r


def test_every_expert_of_a_client_is_the_best_approximation_of_its_rank() -> None:
    method = ranked()
    state = after(method, 2)
    full, low = method.method.model(state.inner, "a1"), method.model(state, "a1")
    assert low.spec.num_experts == full.spec.num_experts == 2
    for expert in range(2):
        wanted, found = products(full.tensors, expert), products(low.tensors, expert)
        for module, product in wanted.items():
            # Eckart-Young: what is left out is the second singular value.
            left_out = float(torch.linalg.svdvals(product)[1])
            assert float((product - found[module]).norm()) == pytest.approx(left_out, abs=1e-5)
    for name in full.names("G"):
        assert torch.equal(low.tensors[name], full.tensors[name]), "routers do not depend on r"


def test_clients_of_one_rank_share_their_experts_in_memory() -> None:
    method = ranked()
    state = after(method, 2)
    one, two = method.model(state, "a1"), method.model(state, "b0")
    for expert in range(2):
        for name in one.names("AB", expert):
            assert one.tensors[name] is two.tensors[name]


def test_a_client_has_its_own_warm_up_bit_for_bit_until_experts_are_allocated() -> None:
    method = ranked()
    state = method.init(adapter(), CLIENTS, 0)
    task = method.task(state, "a1")
    assert task is not None
    update = train("a1", task, CLIENTS["a1"])
    state = method.aggregate(state, [update])
    model = method.model(state, "a1")
    assert all(torch.equal(model.tensors[name], tensor) for name, tensor in update.tensors.items())


def test_round_1_goes_on_from_the_clients_own_warm_up_bit_for_bit() -> None:
    method = ranked(expert_start="client")
    state = method.init(adapter(), CLIENTS, 0)
    updates = []
    for client in sorted(CLIENTS):
        task = method.task(state, client)
        assert task is not None
        updates.append(train(client, task, CLIENTS[client]))
    state = method.aggregate(state, updates)
    own = next(update for update in updates if update.client == "a1")
    task = method.task(state, "a1")
    assert task is not None
    for name, tensor in own.tensors.items():
        module, kind, _ = TensorName.parse(name)
        assert torch.equal(task.model.tensors[str(TensorName(module, kind, task.model.spec.own))], tensor)


def test_groups_are_those_of_the_tasks_and_not_of_the_ranks() -> None:
    state = after(ranked(), 1)
    assert state.allocation.num_experts == 2
    assert {client: state.assignment[client] for client in CLIENTS} == {c: int(c[0] == "b") for c in CLIENTS}


def test_a_late_client_of_a_lower_rank_is_placed_with_its_task() -> None:
    method = WithRanks(ranked().method, 2, {**RANKS, "b9": 1})
    state = method.admit(after(method, 1), "b9", 5)
    task = method.task(state, "b9")
    assert task is not None and task.model.spec.r == 1
    state = method.aggregate(state, [train("b9", task, 5)])
    assert state.assignment["b9"] == state.assignment["b0"]
    assert method.model(state, "b9").spec.r == 1
    assert within(state, "experts")[0]["layer.0.query/A/0"].shape == (2, 6), "experts have the largest rank"


def test_a_model_can_be_had_at_another_rank() -> None:
    method = ranked()
    state = after(method, 2)
    for name, tensor in model_at(method, state, "a1", 2).tensors.items():
        assert torch.equal(tensor, method.method.model(state.inner, "a1").tensors[name])
    plain = made("fedit", Budget(1, 1, 1))
    begun = plain.init(adapter(), CLIENTS, 0)
    assert model_at(plain, begun, "a1", 1) is plain.model(begun, "a1"), "one rank for all"
