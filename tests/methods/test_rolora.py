"""RoLoRA: one half at a time."""

from typing import Any

import torch
from contract.planted import CLIENTS, adapter, made, train
from methods.kept import MARK, Down

from fedlease.core.low_rank import product_mean
from fedlease.core.types import Budget, TensorName

BUDGET = Budget(1, 3)


def advance(method: Any, state: Any) -> Any:
    tasks = {client: method.task(state, client) for client in CLIENTS}
    return method.aggregate(state, [train(client, task, CLIENTS[client]) for client, task in tasks.items()])


def test_rolora_leaves_the_frozen_half_as_it_is_and_the_other_moves() -> None:
    method = made("rolora", BUDGET)
    state = method.init(adapter(), CLIENTS, 0)
    for half in "BABA":
        after = advance(method, state)
        for name, tensor in state.adapter.tensors.items():
            same = torch.equal(after.adapter.tensors[name], tensor)
            assert same == (TensorName.parse(name).kind != half), (state.round, name)
        state = after


def test_rolora_averages_products_exactly() -> None:
    method = made("rolora", BUDGET)
    state = method.init(adapter(), CLIENTS, 0)
    for _ in range(4):
        tasks = {client: method.task(state, client) for client in CLIENTS}
        updates = [train(client, task, CLIENTS[client]) for client, task in tasks.items()]
        state = method.aggregate(state, updates)
        whole = [{**tasks[update.client].model.tensors, **update.tensors} for update in updates]
        # Weighted by rows: the mean of the products, of rank 2 as the half that all have in common.
        mean = product_mean(whole, [CLIENTS[client] for client in CLIENTS])
        for module in state.adapter.spec.target_modules:
            a, b = (str(TensorName(module, kind, 0)) for kind in "AB")
            ours = state.adapter.tensors[b] @ state.adapter.tensors[a]
            torch.testing.assert_close(ours, mean[b] @ mean[a], atol=1e-5, rtol=1e-5)


def test_the_half_that_was_averaged_last_comes_down() -> None:
    method, down = made("rolora", BUDGET), Down()
    state = method.init(adapter(), CLIENTS, 0)
    # Rank 2: A of 6 inputs in both modules, B of 4 and of 6 outputs; of the first round everyone has both.
    note, half = 2 * MARK, {"B": 4 * 2 * (4 + 6), "A": 4 * 2 * (6 + 6)}
    for averaged in ("", "B", "A", "B"):
        fresh = half[averaged] + note if averaged else 2 * note
        assert down.bytes("a0", method.task(state, "a0"), state.round) == fresh
        state = advance(method, state)
    # A client that was away for all of them has the common start alone.
    assert (
        down.bytes("b0", method.task(advance(method, method.init(adapter(), CLIENTS, 0)), "b0"), 2) == half["B"] + note
    )
