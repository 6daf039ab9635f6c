"""FedALT by hand: the rest of the world, what is kept, and the softmax mixer against a loop."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, constant, train
from peft_plugin import tiny

from fedlease.core.aggregate import weighted_mean
from fedlease.core.codec import dumps
from fedlease.core.experts import Rule, mix
from fedlease.core.types import Budget
from fedlease.methods.fedalt import FedALT
from fedlease.peft_plugin.state import adapter_parameters


def played(values: dict[str, float]) -> tuple[FedALT, Any]:
    method = FedALT(Budget(1, 1))
    state = method.init(adapter(), CLIENTS, 0)
    updates = []
    for client, value in values.items():
        task = method.task(state, client)
        assert task is not None
        updates.append(constant(train(client, task, CLIENTS[client]), value))
    return method, method.aggregate(state, updates)


def test_the_rest_of_the_world_is_the_plain_mean_of_the_others() -> None:
    # Rows differ (10, 20, 30) and do not count: (1 + .. + 6 - own) / 5.
    values = {client: i + 1.0 for i, client in enumerate(sorted(CLIENTS))}
    method, state = played(values)
    for client, own in values.items():
        model = method.model(state, client)
        for name, tensor in model.tensors.items():
            if name.endswith("/0"):
                assert torch.equal(tensor, torch.full_like(tensor, own))
            elif name.endswith("/1"):
                assert torch.allclose(tensor, torch.full_like(tensor, (21 - own) / 5))


def test_the_rest_of_the_world_is_the_mean_of_the_others_within_one_unit_in_the_last_place() -> None:
    method = FedALT(Budget(1, 1))
    state = method.init(adapter(), CLIENTS, 0)
    updates = [train(client, task, CLIENTS[client]) for client in CLIENTS if (task := method.task(state, client))]
    state = method.aggregate(state, updates)
    for client in CLIENTS:
        others = [tensors for other, tensors in state.individuals.items() if other != client]
        for name, mean in weighted_mean(others, [1.0] * len(others)).items():
            found = method.model(state, client).tensors[name[:-1] + "1"]
            assert torch.allclose(found, mean, rtol=2**-23, atol=0)


def test_a_model_takes_one_subtraction_however_many_clients_there_are() -> None:
    method, state = played({client: i + 1.0 for i, client in enumerate(sorted(CLIENTS))})
    lost = {c: {n: t * math.nan for n, t in tensors.items()} for c, tensors in state.individuals.items() if c != "b0"}
    blind = replace(state, individuals={**state.individuals, **lost})
    assert dumps(method.model(blind, "b0")) == dumps(method.model(state, "b0")), "no other client's adapter is read"


def test_the_adapter_goes_up_and_the_mixer_stays() -> None:
    method = FedALT(Budget(1, 1))
    task = method.task(method.init(adapter(), CLIENTS, 0), "a0")
    assert task is not None
    assert {name.split("/", 1)[1] for name in task.upload} == {"A/0", "B/0"}
    assert {name.split("/", 1)[1] for name in task.private} == {"G"}
    assert all(task.model.tensors[name].shape[0] == 2 for name in task.private)
    # Uploads are one adapter: r (in + out) over the modules (6, 4) and (6, 6), r = 2.
    assert sum(task.model.tensors[name].numel() for name in task.upload) == 2 * (10 + 12)


def test_a_client_that_has_not_trained_starts_from_the_common_adapter() -> None:
    method, state = played({"a0": 3.0})
    start = adapter().tensors
    model = method.model(state, "b1")
    for name, tensor in model.tensors.items():
        if name.endswith("/0"):
            assert torch.equal(tensor, start[name])
        elif name.endswith("/1"):
            assert torch.equal(tensor, torch.full_like(tensor, 3.0))


def test_two_clients_are_warned_that_adapters_are_handed_over() -> None:
    two = {client: CLIENTS[client] for client in ("a0", "b0")}
    assert "unaveraged" in FedALT(Budget(1, 1)).init(adapter(), two, 0).notes[0]
    assert FedALT(Budget(1, 1)).init(adapter(), CLIENTS, 0).notes == ()


@pytest.mark.parametrize("num_experts", [2, 3])
def test_the_softmax_mixer_is_the_weighted_sum_of_the_experts(num_experts: int) -> None:
    routed = tiny.layer(num_experts=num_experts, mixer="softmax", lora_alpha=5)
    x = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(1))
    router = routed.fedlease_router["default"]
    assert router.shape == (num_experts, 12)
    scaling = routed.fedlease_rules["default"].scaling
    expected = routed.base_layer(x)
    for i in range(2):
        for j in range(4):
            logits = router @ x[i, j]
            weights = torch.exp(logits) / torch.exp(logits).sum()
            for e in range(num_experts):
                a, b = routed.stack_a("default")[e], routed.stack_b("default")[e]
                expected[i, j] = expected[i, j] + scaling * weights[e] * (b @ (a @ x[i, j]))
    assert tiny.relative(routed(x), expected) < 1e-5


def test_a_softmax_mixture_is_saved_and_read_back(tmp_path: object) -> None:
    model, ids = tiny.mixture("bert", mixer="softmax", num_experts=2), tiny.tokens()
    model.save_pretrained(str(tmp_path))
    again = tiny.load(tiny.base("bert"), tmp_path)  # type: ignore[arg-type]
    assert torch.equal(tiny.logits(again, ids), tiny.logits(model, ids))
    assert sum(name.endswith("/G") for name in adapter_parameters(again)) == 4


def test_a_mixer_without_router_is_refused() -> None:
    with pytest.raises(ValueError, match="mixer 'none' has no router"):
        mix(torch.zeros(1, 3), Rule("none", 1, 1.0), 0)
