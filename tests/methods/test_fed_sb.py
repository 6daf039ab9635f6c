"""Fed-SB: linear in what is sent, over factors that never move."""

from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, SHAPES, adapter, made, train
from methods.kept import MARK, Down
from methods.sums import mean_of_trained, whole_update

from fedlease.core.low_rank import cored
from fedlease.core.types import Budget, ClientUpdate, TensorName

BUDGET = Budget(1, 3)


def trained(method: Any, state: Any) -> tuple[dict[str, Any], list[ClientUpdate]]:
    tasks = {client: method.task(state, client) for client in CLIENTS}
    return tasks, [train(client, task, CLIENTS[client]) for client, task in tasks.items()]


def begun() -> tuple[Any, Any]:
    method = made("fed-sb", BUDGET)
    state = method.init(adapter(), CLIENTS, 0)
    return method, method.aggregate(state, trained(method, state)[1])


def test_a_product_is_the_same_with_a_core_between_orthonormal_factors() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, generator=rng).double(), torch.randn(4, 2, generator=rng).double()
    rows, core, columns = cored(a, b)
    torch.testing.assert_close(columns @ core @ rows, b @ a)
    for gram in (rows @ rows.T, columns.T @ columns):
        torch.testing.assert_close(gram, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("start", ["adapters", "weights"])
def test_the_first_model_is_the_best_approximation_of_the_mean_warm_up(start: str) -> None:
    method = made("fed-sb", BUDGET, start=start)
    state = method.init(adapter(), CLIENTS, 0)
    tasks, updates = trained(method, state)
    # A and B of rank 2, or every weight: 6 x 4 and 6 x 6.
    sent = sum(tasks["a0"].model.tensors[name].numel() for name in tasks["a0"].upload)
    assert sent == (2 * sum(map(sum, SHAPES.values())) if start == "adapters" else 24 + 36)
    after = method.aggregate(state, updates)
    mean = mean_of_trained(tasks, updates)
    for module, change in whole_update(method.model(after, "a0")).items():
        least = torch.linalg.svdvals(mean[module])[2:].square().sum().sqrt()
        torch.testing.assert_close((change - mean[module]).norm(), least, atol=1e-5, rtol=1e-5)


def test_the_mean_of_what_is_sent_is_the_mean_of_the_updates() -> None:
    method, state = begun()
    for _ in range(3):
        tasks, updates = trained(method, state)
        after = method.aggregate(state, updates)
        for module, change in whole_update(method.model(after, "a0")).items():
            torch.testing.assert_close(change, mean_of_trained(tasks, updates)[module], atol=1e-6, rtol=1e-6)
        assert all(torch.equal(after.factors[name], tensor) for name, tensor in state.factors.items())
        state = after


def test_r_times_r_numbers_travel_up_for_every_module() -> None:
    method, state = begun()
    task = method.task(state, "a0")
    assert {TensorName.parse(name).kind for name in task.upload} == {"G"} and task.upload == task.trainable
    # Down come factors and cores of 4 bytes a value, then notes for two factors in each of two modules, and cores.
    down, cores = Down(), 4 * 2 * 2 * 2
    assert down.bytes("a0", task, 1) == 4 * 2 * sum(map(sum, SHAPES.values())) + cores
    assert down.bytes("a0", task, 2) == 4 * MARK + cores
    assert sum(task.model.tensors[name].numel() for name in task.upload) == len(SHAPES) * 2 * 2
