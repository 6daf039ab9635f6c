"""A server step around methods: every mean by itself, and what is no mean stays."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, made, train
from contract.table import built
from small import small_settings

from fedlease.core.codec import dumps
from fedlease.core.server_step import ServerStep
from fedlease.core.types import Budget
from fedlease.errors import ConfigError
from fedlease.methods.server_step import WithServerStep, unstepped
from fedlease.runs.building import build_method

PLAIN = ServerStep("momentum", lr=1.0, momentum=0.0)
MOMENTUM = ServerStep("momentum", lr=0.5, momentum=0.5)
METHODS = ("fedit", "ffa-lora", "feddpa", "fedtreelora", "ifca", "fedlease")
BUDGET = Budget(1, 3)


def advance(method: Any, state: Any, clients: Any = CLIENTS) -> Any:
    tasks = {client: method.task(state, client) for client in clients}
    return method.aggregate(state, [train(client, task, CLIENTS[client]) for client, task in tasks.items()])


@pytest.mark.parametrize("name", METHODS)
def test_a_learning_rate_of_1_without_momentum_is_the_method_itself(name: str) -> None:
    method = made(name, BUDGET, min_silhouette=-1)
    stepped = WithServerStep(method, PLAIN)
    state, other = method.init(adapter(), CLIENTS, 0), stepped.init(adapter(), CLIENTS, 0)
    for _ in range(4):
        state, other = advance(method, state), advance(stepped, other)
        assert dumps(other.inner) == dumps(state)


def test_fedit_goes_half_the_way_and_then_what_it_remembers() -> None:
    method = WithServerStep(made("fedit", BUDGET), MOMENTUM)
    first = method.init(adapter(), CLIENTS, 0)
    second = advance(method, first)
    name = "layer.0.query/B/0"
    updates = [train(c, method.task(first, c), CLIENTS[c]).tensors[name] * CLIENTS[c] for c in CLIENTS]
    mean = sum(updates, torch.zeros(())) / sum(CLIENTS.values())
    # B begins at 0: m is the mean, and half of it is handed out.
    torch.testing.assert_close(second.adapter.tensors[name], mean / 2)
    third = advance(method, second)
    updates = [train(c, method.task(second, c), CLIENTS[c]).tensors[name] * CLIENTS[c] for c in CLIENTS]
    d = sum(updates, torch.zeros(())) / sum(CLIENTS.values()) - mean / 2
    torch.testing.assert_close(third.adapter.tensors[name], mean / 2 + 0.5 * (0.5 * mean + d))


def test_each_expert_of_fedlease_has_moments_of_its_own_and_one_without_updates_stays() -> None:
    method = WithServerStep(made("fedlease", BUDGET, min_silhouette=-1), MOMENTUM)
    state = advance(method, method.init(adapter(), CLIENTS, 0))
    assert state.moments == {} and len(state.experts) == 2, "the allocation makes experts, it does not step"
    after = advance(method, state, [client for client in CLIENTS if client[0] == "a"])
    assert {path.partition("/")[2][0] for path in after.moments} == {"0"}
    assert all(torch.equal(after.experts[1][name], tensor) for name, tensor in state.experts[1].items())
    assert "routers/0/layer.0.query/G" in after.moments


def test_new_groups_are_taken_as_they_are_and_nothing_is_remembered() -> None:
    method = WithServerStep(made("fedlease", BUDGET, min_silhouette=-1, reallocate=1), MOMENTUM)
    state = advance(method, method.init(adapter(), CLIENTS, 0))
    swap = {"a": "b", "b": "a"}
    # a0 and b0 train as if their rows were those of the other group: they change places.
    tasks = {client: method.task(state, client) for client in CLIENTS}
    like = {client: swap[client[0]] + client[1] if client[1] == "0" else client for client in CLIENTS}
    updates = [train(like[c], task, CLIENTS[c]) for c, task in tasks.items()]
    updates = [type(u)(c, u.phase, u.round, u.num_examples, u.tensors) for c, u in zip(tasks, updates, strict=True)]
    after = method.aggregate(state, updates)
    assert after.allocation is not state.allocation, "the planted swap changes the groups"
    assert after.moments == {}
    assert dumps(after.inner) == dumps(method.method.aggregate(state.inner, updates))


def test_a_rule_of_the_settings_goes_around_every_method_with_a_mean_and_around_no_other() -> None:
    settings = small_settings(server_step__rule="momentum", server_step__momentum=0.75)
    built = {name: build_method(settings, name, {}).method for name in (*METHODS, "local", "fedalt", "fedlease-plus")}
    wrapped = {name for name, method in built.items() if isinstance(method, WithServerStep)}
    assert wrapped == {*METHODS}
    # Without a learning rate of its own a step is as long as the mean of the last ones.
    assert built["fedit"].step == ServerStep("momentum", lr=0.25, momentum=0.75)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"method": "local"}, "must be none, since local has no mean of A and B that a server could step towards"),
        (
            {"method": "fedlease-plus"},
            "must be none, since fedlease-plus has means of products, whose A and B turn from round to round: "
            "set fedlease_plus.average: factors",
        ),
    ],
)
def test_a_method_without_a_mean_of_a_and_b_is_refused_in_a_sentence(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        small_settings(**changes, baselines=[], server_step__rule="adam")
    assert str(error.value) == f"server_step.rule: {fault}, received 'adam'"


def test_a_method_is_itself_again_without_the_servers_steps_whatever_stands_around_them() -> None:
    method = built("fedit", BUDGET, "shared")
    stepped = replace(method, method=WithServerStep(method.method, MOMENTUM))
    state = advance(stepped, stepped.init(adapter(), CLIENTS, 0))
    plain, within = unstepped(stepped, state)
    assert plain == method and within.inner is state.inner.inner and within.heads is state.heads
    assert advance(plain, within).round == 3
