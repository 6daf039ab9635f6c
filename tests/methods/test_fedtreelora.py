"""FedTreeLoRA by hand: means per layer and group, the frozen outside, the scalar mixer against a loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, constant, train
from peft_plugin import tiny
from small import rounds_of, small_run

import fedlease
from fedlease.core.types import Budget, ClientId, Tensors
from fedlease.errors import RunFailedError
from fedlease.methods.fedtreelora import ALONE, FedTreeLoRA, FedTreeLoRAState

BUDGET = Budget(1, 2)
SHALLOW, DEEP = "layer.0.query", "layer.10.value"


def warmed(method: FedTreeLoRA, skip: frozenset[ClientId] = frozenset()) -> FedTreeLoRAState:
    """After a warm-up in which the groups a and b agree in the shallow layer and part in the deep one.

    All of the deep layer's tensors are 1 for a, 5 for b; of the shallow one 2 for everyone.
    """
    state = method.init(adapter(), CLIENTS, 0)
    for _ in range(2 if skip else 1):
        updates = []
        for client, rows in CLIENTS.items():
            task = method.task(state, client)
            if task is None or client in skip:
                continue
            update = train(client, task, rows)
            deep = 1.0 if client[0] == "a" else 5.0
            filled = {n: torch.full_like(t, 2.0 if n.startswith(SHALLOW) else deep) for n, t in update.tensors.items()}
            updates.append(type(update)(**{**vars(update), "tensors": filled}))
        state = method.aggregate(state, updates, absent=skip)
    return state


def values(tensors: Tensors, module: str, expert: int) -> float:
    parts = [
        tensor.flatten() for name, tensor in tensors.items() if name.startswith(module) and name[-1] == str(expert)
    ]
    whole = torch.cat(parts)
    assert torch.equal(whole, whole[:1].expand_as(whole))
    return whole[0].item()


def test_layers_are_shared_as_far_as_clients_agree() -> None:
    state = warmed(FedTreeLoRA(BUDGET))
    assert [layer.num_groups for layer in state.layers] == [1, 2]
    assert state.assignment == {client: int(client[0] == "b") for client in CLIENTS}
    assert state.allocation is not None
    assert state.allocation.silhouettes == {2: 1.0}


def test_a_client_gets_its_group_and_the_mean_of_everyone_outside() -> None:
    method = FedTreeLoRA(BUDGET)
    model = method.model(warmed(method), "a1")
    assert (model.spec.num_experts, model.spec.own, model.spec.mixer) == (2, 0, "scalar")
    assert values(model.tensors, SHALLOW, 0) == 2.0
    assert values(model.tensors, DEEP, 0) == 1.0
    assert values(model.tensors, DEEP, 1) == 5.0
    # Where everyone shares, nobody is outside: the cluster adapter works alone, for sigmoid(100) is 1.
    assert model.tensors[f"{SHALLOW}/G"].item() == ALONE
    assert torch.tensor(ALONE).sigmoid().item() == 1.0
    assert model.tensors[f"{DEEP}/G"].item() == 0.0


def test_the_adapter_goes_up_and_the_scalars_of_split_layers_stay() -> None:
    method = FedTreeLoRA(BUDGET)
    task = method.task(warmed(method), "b2")
    assert task is not None
    assert task.private == {f"{DEEP}/G"}
    # One adapter, as FedIT's: r (in + out) over the modules (6, 4) and (6, 6), r = 2.
    assert sum(task.model.tensors[name].numel() for name in task.upload) == 2 * (10 + 12)
    assert all(name.endswith("/0") for name in task.upload)


def test_rounds_average_per_layer_and_group_by_rows() -> None:
    method = FedTreeLoRA(BUDGET)
    state = warmed(method)
    updates = []
    for client, value in {"a0": 1.0, "a1": 4.0, "b0": 7.0}.items():
        task = method.task(state, client)
        assert task is not None
        updates.append(constant(train(client, task, CLIENTS[client]), value))
    after = method.aggregate(state, updates)
    assert after.round == 2
    model = method.model(after, "a2")
    # a0 and a1 with 10 and 20 rows: (10 + 20 x 4) / 30 = 3; all three, b0 with 10: (10 + 80 + 70) / 40 = 4.
    assert values(model.tensors, DEEP, 0) == 3.0
    assert values(model.tensors, SHALLOW, 0) == 4.0
    # Outside of a: b0 gave 7 now, b1 and b2 gave 5 before: (10 x 7 + 20 x 5 + 30 x 5) / 60.
    assert values(model.tensors, DEEP, 1) == pytest.approx(320 / 60)


def test_a_group_without_updates_keeps_its_adapter() -> None:
    method = FedTreeLoRA(BUDGET)
    state = warmed(method)
    task = method.task(state, "a0")
    assert task is not None
    after = method.aggregate(state, [constant(train("a0", task, 10), 9.0)])
    assert values(method.model(after, "b0").tensors, DEEP, 0) == 5.0


def test_the_grouping_alone_is_one_plain_adapter() -> None:
    method = FedTreeLoRA(BUDGET, outside=False)
    state = warmed(method)
    model = method.model(state, "b1")
    assert model.spec == adapter().spec
    assert {name.rsplit("/", 1)[1] for name in model.tensors} == {"0"}
    assert values(model.tensors, DEEP, 0) == 5.0
    assert state.rests == ()


def test_a_window_of_one_is_fedit_after_a_warm_up() -> None:
    method = FedTreeLoRA(BUDGET, window=1, tau=-1)
    state = warmed(method)
    assert [layer.num_groups for layer in state.layers] == [1, 1]
    models = [method.model(state, client).tensors for client in CLIENTS]
    # a and b hold 60 rows each: (1 + 5) / 2.
    assert {values(tensors, DEEP, 0) for tensors in models} == {3.0}
    task = method.task(state, "a0")
    assert task is not None
    assert task.private == frozenset()


def test_a_late_client_joins_the_groups_of_its_nearest_fellows() -> None:
    method = FedTreeLoRA(BUDGET)
    state = warmed(method, skip=frozenset({"b2"}))
    assert "b2" not in state.assignment
    task = method.task(state, "b2")
    assert task is not None
    assert task.phase == "warmup"
    after = method.aggregate(state, [constant(train("b2", task, 30), 5.0)])
    assert after.assignment["b2"] == 1
    assert [layer.labels["b2"] for layer in after.layers] == [0, 1]
    assert "joined group 2" in after.notes[0]
    assert values(method.model(after, "b2").tensors, DEEP, 0) == 5.0


def test_without_any_warm_up_the_run_fails() -> None:
    method = FedTreeLoRA(BUDGET)
    state = method.init(adapter(), CLIENTS, 0)
    state = method.aggregate(state, [], absent=CLIENTS.keys())
    with pytest.raises(RunFailedError, match="the tree cannot be built"):
        method.aggregate(state, [], absent=CLIENTS.keys())


def test_the_scalar_mixer_is_the_weighted_sum_of_two_experts() -> None:
    routed = tiny.layer(num_experts=2, mixer="scalar", lora_alpha=5)
    x = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(1))
    scalar = routed.fedlease_router["default"]
    assert scalar.shape == (1,)
    with torch.no_grad():
        scalar.fill_(0.7)
    share = 1 / (1 + torch.exp(torch.tensor(-0.7)))
    scaling = routed.fedlease_rules["default"].scaling
    expected = routed.base_layer(x)
    for e, weight in enumerate((share, 1 - share)):
        a, b = routed.stack_a("default")[e], routed.stack_b("default")[e]
        expected = expected + scaling * weight * (x @ a.T @ b.T)
    found = routed(x)
    assert tiny.relative(found, expected) < 1e-5
    found.sum().backward()
    assert scalar.grad is not None
    assert scalar.grad.abs().item() > 0


def test_a_scalar_mixture_is_saved_and_read_back(tmp_path: Path) -> None:
    model, ids = tiny.mixture("bert", mixer="scalar", num_experts=2), tiny.tokens()
    model.save_pretrained(str(tmp_path))
    again = tiny.load(tiny.base("bert"), tmp_path)
    assert torch.equal(tiny.logits(again, ids), tiny.logits(model, ids))


def test_end_to_end_scores_are_those_of_the_loaded_models(tmp_path: Path) -> None:
    result = small_run(tmp_path / "run", method="fedtreelora", baselines=[], fedtreelora__tau=-1)
    record: dict[str, Any] = rounds_of(tmp_path / "run")[-1]
    assert record["phase"] == "tree"
    assert result.summary["num_experts"] > 1
    client = min(result.summary["per_client"])
    model = fedlease.load(tmp_path / "run", client)
    scalars = [p.item() for name, p in model.named_parameters() if "fedlease_router" in name]
    assert any(0 < abs(value) < 1 for value in scalars), "the client's own scalars are learnt and kept"
