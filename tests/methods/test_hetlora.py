"""HetLoRA: padding, weights by norm, truncation, and clients that give up directions."""

from dataclasses import replace
from typing import Any

import torch
from contract.planted import CLIENTS, adapter, made, train

from fedlease.core.aggregate import weighted_mean
from fedlease.core.low_rank import product_norm, tail_norm
from fedlease.core.ranks import Ranks
from fedlease.core.types import Budget, ClientUpdate, LocalTerm

BUDGET = Budget(1, 3)
A, B = "m/A/0", "m/B/0"


def advance(method: Any, state: Any) -> tuple[Any, list[ClientUpdate]]:
    tasks = {client: method.task(state, client) for client in CLIENTS}
    updates = [train(client, task, CLIENTS[client]) for client, task in tasks.items()]
    return method.aggregate(state, updates), updates


def test_with_equal_ranks_and_no_pruning_it_is_fedit_weighted_by_the_norms_of_products() -> None:
    method = made("hetlora", BUDGET, gamma=1.0)
    state = method.init(adapter(), CLIENTS, 0)
    for _ in range(3):
        state, updates = advance(method, state)
        states = [update.tensors for update in updates]
        expected = weighted_mean(states, [product_norm(tensors) for tensors in states])
        assert all(torch.equal(state.adapter.tensors[name], expected[name]) for name in expected)
        assert method.task(state, "a0") is None or method.task(state, "a0").term is None


def test_norms_by_hand() -> None:
    # B A = [[2], [0]] [[3, 4]] + [[0], [1]] [[0, 1]] = [[6, 8], [0, 1]]: 36 + 64 + 1 = 101.
    tensors = {A: torch.tensor([[3.0, 4.0], [0.0, 1.0]]), B: torch.tensor([[2.0, 0.0], [0.0, 1.0]])}
    assert abs(product_norm(tensors) ** 2 - 101) < 1e-9
    assert tail_norm(tensors, 1) == 1.0 and tail_norm(tensors, 2) == 0.0
    assert tail_norm(tensors, 0) == (26 * 5) ** 0.5


def test_the_penalty_draws_the_tails_of_a_and_b_to_zero() -> None:
    a = torch.tensor([[9.0, 9.0], [3.0, 4.0]], requires_grad=True)
    b = torch.tensor([[9.0, 0.0], [9.0, 2.0]], requires_grad=True)
    LocalTerm(tail=0.5, kept=1).adder({A: a, B: b}, [A, B])()
    # 0.5 x ||(3, 4)|| x ||(0, 2)|| = 5: its gradient is 0.5 x 2 x (3, 4) / 5 and 0.5 x 5 x (0, 2) / 2.
    assert a.grad is not None and b.grad is not None
    torch.testing.assert_close(a.grad, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    torch.testing.assert_close(b.grad, torch.tensor([[0.0, 0.0], [0.0, 2.5]]))
    zero = {A: torch.ones(2, 2, requires_grad=True), B: torch.zeros(2, 2, requires_grad=True)}
    LocalTerm(tail=0.5, kept=1).adder(zero, [A, B])()
    assert all(not bool(tensor.grad.any()) for tensor in zero.values() if tensor.grad is not None)


def test_clients_have_the_first_directions_of_their_rank_and_what_they_lack_counts_as_zero() -> None:
    method = made("hetlora", BUDGET, gamma=1.0, ranks=Ranks(2, {"a1": 1}))
    state = method.init(adapter(), CLIENTS, 0)
    state, updates = advance(method, state)
    name = "layer.0.query/B/0"
    model = method.model(state, "a1")
    assert model.spec.r == 1 and model.spec.alpha == 2
    assert torch.equal(model.tensors[name], state.adapter.tensors[name][:, :1])
    norms = {update.client: product_norm(update.tensors) for update in updates}
    second = sum((u.tensors[name][:, 1] * norms[u.client] for u in updates if u.client != "a1"), torch.zeros(())) / sum(
        norms.values()
    )
    torch.testing.assert_close(state.adapter.tensors[name][:, 1], second)


def test_a_client_whose_tail_becomes_smaller_gives_it_up_for_good() -> None:
    method = made("hetlora", BUDGET, gamma=0.5, penalty=0.1)
    state, _ = advance(method, method.init(adapter(), CLIENTS, 0))
    assert state.pruned == {}, "from B = 0 no tail can become smaller"
    task = method.task(state, "a0")
    assert task.term == LocalTerm(tail=0.1, kept=1)
    updates = [train(client, method.task(state, client), CLIENTS[client]) for client in CLIENTS]
    shrunk = {n: t.clone() for n, t in task.model.tensors.items()}
    for name, tensor in shrunk.items():
        if "/B/" in name:
            tensor[:, 1] *= 0.5
    updates = [replace(u, tensors=shrunk) if u.client == "a0" else u for u in updates]
    after = method.aggregate(state, updates)
    assert after.pruned["a0"] == 1
    assert method.model(after, "a0").spec.r == 1 and method.task(after, "a0").term is None
    others = {u.client for u in updates if tail_norm(u.tensors, 1) >= tail_norm(task.model.tensors, 1)}
    assert others and all(method.model(after, client).spec.r == 2 for client in others)
