"""FedSVD: A is set anew without a change of the product; without that it is FFA-LoRA."""

from typing import Any

import torch
from contract.planted import CLIENTS, adapter, made, train
from methods.sums import mean_of_trained, whole_update

from fedlease.core.codec import dumps
from fedlease.core.types import Budget, TensorName

BUDGET = Budget(1, 3)


def advance(method: Any, state: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    tasks = {client: method.task(state, client) for client in CLIENTS}
    updates = [train(client, task, CLIENTS[client]) for client, task in tasks.items()]
    return method.aggregate(state, updates), mean_of_trained(tasks, updates)


def test_setting_a_anew_does_not_change_the_product_and_makes_its_rows_orthonormal() -> None:
    method = made("fedsvd", BUDGET)
    state = method.init(adapter(), CLIENTS, 0)
    for _ in range(4):
        state, mean = advance(method, state)
        for module, change in whole_update(method.model(state, "a0")).items():
            torch.testing.assert_close(change, mean[module], atol=1e-5, rtol=1e-5)
            a, b = (state.adapter.tensors[str(TensorName(module, kind, 0))] for kind in "AB")
            torch.testing.assert_close(a @ a.T, torch.eye(2), atol=1e-6, rtol=0)
            # B = U S: its columns are orthogonal, the longest first.
            gram = b.T @ b
            assert abs(float(gram[0, 1])) < 1e-4 * float(gram[0, 0]) and gram[0, 0] >= gram[1, 1]


def test_a_is_set_anew_after_every_so_many_rounds_and_never_is_ffa_lora() -> None:
    method, never, ffa = made("fedsvd", BUDGET, every=2), made("fedsvd", BUDGET, every=9), made("ffa-lora", BUDGET)
    states = [m.init(adapter(), CLIENTS, 0) for m in (method, never, ffa)]
    for number in range(1, 5):
        before = states[0].adapter.tensors["layer.0.query/A/0"]
        states = [advance(m, s)[0] for m, s in zip((method, never, ffa), states, strict=True)]
        assert torch.equal(before, states[0].adapter.tensors["layer.0.query/A/0"]) == (number % 2 == 1)
        assert dumps(states[1]) == dumps(states[2])


def test_only_b_travels_up() -> None:
    method = made("fedsvd", BUDGET)
    task = method.task(method.init(adapter(), CLIENTS, 0), "a0")
    assert task.upload == task.trainable == task.model.names("B")
