"""Ravan: the mean of what is sent is the mean of the updates, over factors that never move."""

import torch
from contract.planted import CLIENTS, SHAPES, adapter, made, train
from methods.sums import mean_of_trained, whole_update

from fedlease.core.folding import fold
from fedlease.core.types import AdapterSpec, Budget, ClientModel, TensorName

BUDGET = Budget(1, 3)


def test_an_update_is_the_sum_of_the_heads_by_hand() -> None:
    """2 B1 H1 A1 + 3 B2 H2 A2 of rank 1, alpha / r = 1: 2 x 5 x (1, 0)^T (1, 1) + 3 x 7 x (0, 1)^T (1, -1)."""
    tensors = {
        "m/A/0": torch.tensor([[1.0, 1.0]]),
        "m/A/1": torch.tensor([[1.0, -1.0]]),
        "m/B/0": torch.tensor([[1.0], [0.0]]),
        "m/B/1": torch.tensor([[0.0], [1.0]]),
        "m/G": torch.tensor([[2.0, 5.0], [3.0, 7.0]]),
    }
    model = ClientModel(AdapterSpec(1, 1.0, 0.0, ("m",), num_experts=2, mixer="heads"), tensors)
    assert whole_update(model)["m"].tolist() == [[10.0, 10.0], [21.0, -21.0]]
    assert fold(model, {}).spec.r == 2


def test_the_mean_of_what_is_sent_is_the_mean_of_the_updates() -> None:
    method = made("ravan", BUDGET, heads=2)
    state = method.init(adapter(), CLIENTS, 0)
    assert not any(bool(change.any()) for change in whole_update(method.model(state, "a0")).values()), "H is 0"
    for _ in range(3):
        tasks = {client: method.task(state, client) for client in CLIENTS}
        updates = [train(client, task, CLIENTS[client]) for client, task in tasks.items()]
        after = method.aggregate(state, updates)
        for module, change in whole_update(method.model(after, "a0")).items():
            expected = mean_of_trained(tasks, updates)[module]
            torch.testing.assert_close(change, expected, atol=1e-5, rtol=1e-5)
        assert after.factors is state.factors
        assert all(torch.equal(core[:, 0], torch.ones(2)) for core in after.cores.values())
        state = after


def test_factors_are_orthonormal_over_all_heads_as_far_as_there_is_room() -> None:
    state = made("ravan", BUDGET, heads=3).init(adapter(), CLIENTS, 0)
    module = "layer.10.value"  # 6 x 6: three heads of rank 2
    for kind, side in (("A", 0), ("B", 1)):
        heads = torch.cat([state.factors[str(TensorName(module, kind, head))] for head in range(3)], side)
        torch.testing.assert_close(heads @ heads.T, torch.eye(6), atol=1e-6, rtol=0)
    # The output of the other is 4 wide, so that the third head begins anew.
    third = state.factors["layer.0.query/B/2"]
    torch.testing.assert_close(third.T @ third, torch.eye(2), atol=1e-6, rtol=0)


def test_heads_times_one_more_than_r_squared_numbers_travel_up_for_every_module() -> None:
    method = made("ravan", BUDGET, heads=3)
    task = method.task(method.init(adapter(), CLIENTS, 0), "a0")
    assert sum(task.model.tensors[name].numel() for name in task.upload) == len(SHAPES) * 3 * (1 + 2 * 2)
    assert task.upload == task.trainable
