"""FedEx-LoRA: whatever the clients have after training, everyone has its exact mean afterwards."""

import torch
from contract.planted import CLIENTS, SHAPES, adapter, made, train
from methods.sums import assert_exact_mean_after_every_round

from fedlease.core.types import Budget
from fedlease.methods.base import State

BUDGET = Budget(1, 3)


def test_everyone_has_the_exact_mean_of_products_after_every_round() -> None:
    assert_exact_mean_after_every_round(made("fedex-lora", BUDGET))


def test_a_and_b_are_those_of_fedit_and_what_is_added_is_frozen() -> None:
    method, fedit = made("fedex-lora", BUDGET), made("fedit", BUDGET)
    state, other = (m.init(adapter(), CLIENTS, 0) for m in (method, fedit))
    updates = [train(client, method.task(state, client), CLIENTS[client]) for client in CLIENTS]
    state, other = method.aggregate(state, updates), fedit.aggregate(other, updates)
    assert isinstance(state, State)
    assert all(torch.equal(state.adapter.tensors[n], t) for n, t in other.adapter.tensors.items())
    task = method.task(state, "a0")
    # Six clients of rank 2 lack 10 directions, more than the 4 and 6 that the modules have: 6 of them, 3 experts.
    assert (task.model.spec.mixer, task.model.spec.num_experts) == ("sum", 4)
    assert task.upload == task.trainable == task.model.names("AB", 0)


def test_what_travels_is_an_adapter_up_and_the_adapter_with_the_whole_residual_down() -> None:
    method = made("fedex-lora", BUDGET)
    state = method.init(adapter(), CLIENTS, 0)
    two = ["a0", "b0"]
    state = method.aggregate(state, [train(c, method.task(state, c), CLIENTS[c]) for c in two])
    task = method.task(state, "a0")
    one = 2 * sum(map(sum, SHAPES.values()))
    # Two clients of rank 2 lack two directions: one expert, as large as the adapter.
    assert sum(task.model.tensors[name].numel() for name in task.upload) == one
    assert sum(tensor.numel() for tensor in task.model.tensors.values()) == 2 * one
