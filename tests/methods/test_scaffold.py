"""SCAFFOLD: with exact variates all clients go by one gradient; nothing more changes FedIT."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from contract.planted import CLIENTS, SHAPES, adapter, made, train
from small import FinishedRuns, rounds_of

from fedlease.core.codec import dumps
from fedlease.core.types import Budget, ClientUpdate

BUDGET = Budget(1, 3)
A, DA = "layer.0.query/A/0", "layer.0.query/dA/0"


def advance(method: Any, state: Any, clients: Any = CLIENTS) -> Any:
    return method.aggregate(state, [train(client, method.task(state, client), CLIENTS[client]) for client in clients])


def test_the_first_round_is_fedits_and_each_asks_for_the_mean_gradients_of_a_and_b() -> None:
    method, fedit = made("scaffold", BUDGET), made("fedit", BUDGET)
    state, other = method.init(adapter(), CLIENTS, 0), fedit.init(adapter(), CLIENTS, 0)
    task = method.task(state, "a0")
    assert dumps(replace(task, gradients=False)) == dumps(fedit.task(other, "a0"))
    numbers = sum(tensor.numel() for tensor in task.expected.values())
    assert numbers == 2 * sum(2 * (i + o) for i, o in SHAPES.values()), "twice FedIT's"


def test_the_slope_is_the_mean_variate_less_ones_own_weighted_as_the_mean_is() -> None:
    """Rows 10 and 30, so weights 1/4 and 3/4; gradients 8 and 4: c = 5, slopes -3 and 1."""
    method, clients = made("scaffold", BUDGET), {"x": 10, "y": 30}
    state = method.init(adapter(), clients, 0)
    updates = []
    for client, value in (("x", 8.0), ("y", 4.0)):
        tensors = {name: torch.full_like(like, value) for name, like in method.task(state, client).expected.items()}
        updates.append(ClientUpdate(client, "federated", 1, clients[client], tensors, metrics={"loss": 1.0}))
    after = method.aggregate(state, updates)
    slopes = {client: method.task(after, client).term.slope for client in clients}
    assert slopes["x"].keys() == adapter().names("AB")
    assert {float(v) for t in slopes["x"].values() for v in t.flatten()} == {-3.0}
    assert {float(v) for t in slopes["y"].values() for v in t.flatten()} == {1.0}
    # A client that has not trained yet has the variate 0 and counts in the mean: weights 1/5, 3/5, 1/5, c = 4.
    late = method.admit(after, "z", 10)
    assert {float(v) for t in method.task(late, "z").term.slope.values() for v in t.flatten()} == {4.0}


def test_whoever_sits_a_round_out_keeps_its_variate_and_the_mean_is_of_a_and_b_alone() -> None:
    method = made("scaffold", BUDGET)
    one = advance(method, method.init(adapter(), CLIENTS, 0))
    two = advance(method, one, ["a0"])
    assert torch.equal(two.variates["b0"][A], one.variates["b0"][A])
    assert not torch.equal(two.variates["a0"][A], one.variates["a0"][A])
    assert two.adapter.tensors.keys() == adapter().tensors.keys()
    update = train("a0", method.task(one, "a0"), CLIENTS["a0"])
    assert torch.equal(two.variates["a0"][A], update.tensors[DA])


def test_a_run_sends_twice_what_fedit_sends_both_ways(finished: FinishedRuns) -> None:
    def sums(out: Path) -> list[tuple[float, float]]:
        return [(step["bytes_up"], step["bytes_down"]) for step in rounds_of(out)]

    own = sums(finished(method="scaffold", baselines=[]).out)
    fedit = sums(finished(method="fedit", baselines=[]).out)
    assert [up for up, _ in own] == [2 * up for up, _ in fedit]
    # In the first round all variates are 0, and none is sent.
    assert [down for _, down in own] == [fedit[0][1], *(2 * down for _, down in fedit[1:])]
