"""FedIT, local training and head policies, by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, constant, made, train

from fedlease.core.codec import dumps, loads
from fedlease.core.types import Budget
from fedlease.errors import ConfigError
from fedlease.methods.fedit import FedIT
from fedlease.methods.fedlease import FedLease
from fedlease.methods.head import Head, with_head
from fedlease.methods.local import Local
from fedlease.methods.registry import METHODS

HEAD = {"head/classifier.weight": torch.zeros(2, 6)}


def heads(labels: Any = None) -> dict[str, Head]:
    return {client: Head((labels or {}).get(client, ("no", "yes")), HEAD) for client in CLIENTS}


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


def test_local_shares_nothing() -> None:
    method = Local(Budget(2, 1))
    state = method.init(adapter(), CLIENTS, 0)
    task = method.task(state, "a0")
    assert task is not None
    assert task.upload == frozenset() and task.private == task.trainable
    assert task.stages[0].epochs == 2


def test_local_begins_with_the_same_work_as_fedlease() -> None:
    """Same model, same trainable tensors, same epochs and round: only then may a run do it once for both."""
    budget = Budget(3, 2)
    local, fedlease = Local(budget), FedLease(budget)
    first = local.task(local.init(adapter(), CLIENTS, 0), "a0")
    other = fedlease.task(fedlease.init(adapter(), CLIENTS, 0), "a0")
    assert first is not None and other is not None
    assert first.stages == other.stages and first.round == other.round and first.phase == other.phase
    assert first.model.spec == other.model.spec
    assert all(torch.equal(first.model.tensors[n], other.model.tensors[n]) for n in first.model.tensors)


def test_shared_heads_are_averaged_within_the_group_only() -> None:
    """FedLEASE groups a and b; constants 1, 2, 3 in each group: heads 7 / 3 in a, shifted by 3 in b: 16 / 3."""
    method = with_head(FedLease(Budget(1, 2)), "shared", heads())
    state = method.init(adapter(), CLIENTS, 0)

    def updates(current: Any) -> list[Any]:
        made = []
        for i, (client, rows) in enumerate(sorted(CLIENTS.items())):
            update = train(client, method.task(current, client), rows)  # type: ignore[arg-type]
            filled = {n: torch.full_like(t, i + 1.0) if n in HEAD else t for n, t in update.tensors.items()}
            made.append(replace(update, tensors=filled))
        return made

    for _ in range(2):  # the allocation, then an ordinary round
        state = method.aggregate(state, updates(state))
        for client in CLIENTS:
            head = method.model(state, client).tensors["head/classifier.weight"]
            expected = 7 / 3 if client[0] == "a" else 16 / 3
            assert torch.allclose(head, torch.full_like(head, expected))


def test_before_the_allocation_shared_heads_do_not_mix() -> None:
    method = with_head(FedLease(Budget(1, 2)), "shared", heads())
    state = method.init(adapter(), CLIENTS, 0)
    update = train("a0", method.task(state, "a0"), 10)  # type: ignore[arg-type]
    after = method.aggregate(state, [update])
    own = method.model(after, "a0").tensors["head/classifier.weight"]
    assert torch.equal(own, update.tensors["head/classifier.weight"])
    assert not method.model(after, "a1").tensors["head/classifier.weight"].any()


def test_sharing_heads_of_different_label_lists_is_refused() -> None:
    method = with_head(FedIT(Budget(1, 1)), "shared", heads({"b1": ("no", "maybe")}))
    with pytest.raises(ConfigError, match=r"head: 'shared' needs equal label lists.*'a0'.*'b1' has \['no', 'maybe'\]"):
        method.init(adapter(), CLIENTS, 0)


def test_a_late_client_with_labels_of_its_own_shares_its_head_with_nobody_and_stops_nobody() -> None:
    late = {"c0": Head(("no", "maybe"), heads()["a0"].tensors), "c1": heads()["a0"]}
    method = with_head(FedIT(Budget(1, 3)), "shared", {**heads(), **late})
    state = method.init(adapter(), CLIENTS, 0)
    for client in late:
        state = method.admit(state, client, 10)
    assert dumps(loads(dumps(state))) == dumps(state)
    rows, updates = {**CLIENTS, **dict.fromkeys(late, 10)}, []
    for client, value in (("a0", 1.0), ("c0", 5.0), ("c1", 4.0)):  # 10 rows each
        task = method.task(state, client)
        assert task is not None
        update = train(client, task, rows[client])
        filled = {n: torch.full_like(t, value) if n in HEAD else t for n, t in update.tensors.items()}
        updates.append(replace(update, tensors=filled))
    after = method.aggregate(state, updates)
    expected = {"a0": 2.5, "b1": 2.5, "c0": 5.0, "c1": 2.5}
    for client, value in expected.items():
        assert method.model(after, client).tensors["head/classifier.weight"].unique().tolist() == [value]


def test_unknown_policy_and_method_are_refused() -> None:
    with pytest.raises(ValueError, match="policy must be one of"):
        with_head(FedIT(Budget(1, 1)), "mixed", heads())  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        made("nothing", Budget(1, 1))


def test_every_method_of_the_table_states_its_source_or_purpose() -> None:
    import importlib

    for where in METHODS.values():
        module = importlib.import_module(where.partition(":")[0])
        assert module.__doc__ and len(module.__doc__.strip().splitlines()) >= 3
