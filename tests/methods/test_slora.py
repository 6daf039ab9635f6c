"""SLoRA: sparse differences are averaged, and A and B start from the best approximation of their mean."""

from typing import Any

import torch
import torch.nn.functional as F
from contract.planted import CLIENTS, SHAPES, adapter, made, train
from methods.kept import MARK, Down
from methods.sums import mean_of_trained, whole_update
from torch import nn

from fedlease.core.codec import dumps
from fedlease.core.sparse import count_of, dense, positions
from fedlease.core.types import Budget, TensorName
from fedlease.peft_plugin.config import FedLeaseConfig
from fedlease.peft_plugin.layer import FedLeaseLayer

BUDGET = Budget(1, 3)
"""Four rounds, one of which takes the place of a warm-up."""


def step(method: Any, state: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """What the clients have after training on average, and the next state."""
    tasks = {client: method.task(state, client) for client in CLIENTS}
    updates = [train(client, task, CLIENTS[client]) for client, task in tasks.items()]
    return mean_of_trained(tasks, updates), method.aggregate(state, updates)


def test_values_stand_at_their_positions_and_are_0_elsewhere() -> None:
    values, shape = torch.tensor([3.0, -1.0, 2.0], requires_grad=True), (4, 5)
    with torch.inference_mode():
        assert dense(values, shape, 7).shape == shape, "scoring may ask first"
    places = positions(7, shape, 3, torch.device("cpu"))
    assert places.tolist() == sorted({*places.tolist()}) and len(places) == count_of(shape, 0.15) == 3
    matrix = dense(values, shape, 7)
    assert matrix.flatten()[places].tolist() == [3.0, -1.0, 2.0] and int(matrix.count_nonzero()) == 3
    (matrix * 2).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None and values.grad.tolist() == [2.0, 2.0, 2.0]
    both = dense(torch.stack([values, -values]), shape, 7)
    assert torch.equal(both[0], matrix) and torch.equal(both[1], -matrix)
    assert positions(8, shape, 3, torch.device("cpu")).tolist() != places.tolist()


def test_a_layer_computes_what_one_with_other_weights_does() -> None:
    config = FedLeaseConfig(r=2, lora_alpha=6, num_experts=1, mixer="sparse", density=0.3, places=5)
    linear = nn.Linear(6, 4)
    layer = FedLeaseLayer(linear, "default", config)
    with torch.no_grad():
        layer.fedlease_router["default"].copy_(torch.randn(count_of((4, 6), 0.3)))
        x = torch.randn(2, 3, 6)
        weight = linear.weight + dense(layer.fedlease_router["default"], (4, 6), 5)
        torch.testing.assert_close(layer(x), F.linear(x, weight, linear.bias))


def test_the_mean_of_the_values_is_the_mean_of_the_updates_and_then_its_best_approximation() -> None:
    method = made("slora", BUDGET, stage=0.5, density=0.5)
    state = method.init(adapter(), CLIENTS, 0)
    mean, state = step(method, state)
    for module, change in whole_update(method.model(state, "a0")).items():
        torch.testing.assert_close(change, mean[module], atol=1e-6, rtol=1e-6)
        assert int(change.count_nonzero()) == SHAPES[module][0] * SHAPES[module][1] / 2
    mean, state = step(method, state)
    assert state.values == {} and method.model(state, "a0") == state.adapter
    for module, change in whole_update(state.adapter).items():
        least = torch.linalg.svdvals(mean[module])[2:].square().sum().sqrt()
        torch.testing.assert_close((change - mean[module]).norm(), least, atol=1e-5, rtol=1e-5)
    assert {TensorName.parse(name).kind for name in method.task(state, "a0").upload} == {"A", "B"}


def test_without_a_first_stage_it_is_fedit_to_the_bit() -> None:
    method, fedit = made("slora", BUDGET, stage=0.0), made("fedit", BUDGET)
    state, other = (m.init(adapter(), CLIENTS, 0) for m in (method, fedit))
    for _ in range(4):
        assert dumps(method.task(state, "b1")) == dumps(fedit.task(other, "b1"))
        state, other = step(method, state)[1], step(fedit, other)[1]
    assert dumps(state.adapter) == dumps(other.adapter)


def test_the_values_alone_travel_in_the_first_stage() -> None:
    method = made("slora", BUDGET, density=0.25)
    state, down = method.init(adapter(), CLIENTS, 0), Down()
    task = method.task(state, "a0")
    # A quarter of 6 x 4 and of 6 x 6: 6 and 9 values of 4 bytes. Everyone has the common A and B of both modules.
    assert sum(task.model.tensors[name].nbytes for name in task.upload) == 4 * (6 + 9)
    assert down.bytes("a0", task, 1) == 4 * (6 + 9) + 4 * MARK
    state = step(method, state)[1]
    assert down.bytes("a0", method.task(state, "a0"), 2) == 4 * 2 * sum(map(sum, SHAPES.values()))
