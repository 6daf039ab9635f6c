"""FedIT, FFA-LoRA and FedSA-LoRA, which average all clients, by hand."""

from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, constant, made, train

from fedlease.core.types import Budget
from fedlease.methods.fedit import FedIT


def test_fedit_averages_over_all_clients_by_rows() -> None:
    """Constants 1 .. 6 with rows 10, 20, 30, 10, 20, 30: (10 + 40 + 90 + 40 + 100 + 180) / 120 = 23 / 6."""
    method = FedIT(Budget(1, 1))
    state = method.init(adapter(), CLIENTS, 0)
    updates = []
    for i, (client, rows) in enumerate(sorted(CLIENTS.items())):
        task = method.task(state, client)
        assert task is not None
        updates.append(constant(train(client, task, rows), i + 1.0))
    after = method.aggregate(state, updates)
    for tensor in after.adapter.tensors.values():
        assert torch.allclose(tensor, torch.full_like(tensor, 23 / 6))


@pytest.mark.parametrize(
    ("budget", "epochs"),
    [(Budget(2, 3, 1), [1] * 5), (Budget(1, 3, 2), [1, 2, 2, 2]), (Budget(4, 0, 4), [4])],
)
def test_fedit_spends_the_whole_budget_in_rounds(budget: Budget, epochs: list[int]) -> None:
    method = FedIT(budget)
    state, spent = method.init(adapter(), CLIENTS, 0), []
    while (task := method.task(state, "a0")) is not None:
        spent.append(task.stages[0].epochs)
        state = method.aggregate(state, [])
    assert spent == epochs and sum(spent) == budget.passes


def test_ffa_lora_moves_b_alone() -> None:
    """Constants 1 .. 6 with rows 10, 20, 30, 10, 20, 30 average to 23 / 6 in B; A keeps every bit."""
    method = made("ffa-lora", Budget(1, 1))
    start = adapter()
    state = method.init(start, CLIENTS, 0)
    updates = []
    for i, (client, rows) in enumerate(sorted(CLIENTS.items())):
        task = method.task(state, client)
        assert task is not None and task.trainable == task.upload
        updates.append(constant(train(client, task, rows), i + 1.0))
    model = method.model(method.aggregate(state, updates), "a0")
    for name, tensor in model.tensors.items():
        expected = start.tensors[name] if "/A/" in name else torch.full_like(tensor, 23 / 6)
        assert torch.allclose(tensor, expected) and torch.equal(tensor, start.tensors[name]) == ("/A/" in name)


def test_fedsa_lora_averages_a_and_keeps_b_private() -> None:
    method = made("fedsa-lora", Budget(1, 1), weights="uniform")
    start = adapter()
    state = method.init(start, CLIENTS, 0)
    updates = []
    for i, (client, rows) in enumerate(sorted(CLIENTS.items())):
        task = method.task(state, client)
        assert task is not None
        assert {name.split("/")[1] for name in task.private} == {"B"}
        updates.append(constant(train(client, task, rows), i + 1.0))
    model = method.model(method.aggregate(state, updates), "a0")
    for name, tensor in model.tensors.items():
        # (1 + .. + 6) / 6; the server's B stays zero, the client's own is laid over it by the engine.
        assert torch.equal(tensor, torch.full_like(tensor, 3.5) if "/A/" in name else torch.zeros_like(tensor))


@pytest.mark.parametrize(
    ("method", "share"), [("ffa-lora", (4 + 6) * 2), ("fedsa-lora", (6 + 6) * 2), ("fedit", (10 + 12) * 2)]
)
def test_uploads_are_the_papers_arithmetic(method: Any, share: int) -> None:
    """Modules (in 6, out 4) and (6, 6) at r = 2: B has out x r values, A r x in."""
    sent = made(method, Budget(1, 1))
    task = sent.task(sent.init(adapter(), CLIENTS, 0), "a0")
    assert sum(task.model.tensors[name].numel() for name in task.upload) == share
