"""Head policies: shared within a group of equal label lists, and with nobody else."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, made, train

from fedlease.core.codec import dumps, loads
from fedlease.core.types import Budget
from fedlease.errors import ConfigError
from fedlease.methods.fedit import FedIT
from fedlease.methods.fedlease import FedLease
from fedlease.methods.head import Head, with_head

HEAD = {"head/classifier.weight": torch.zeros(2, 6)}


def heads(labels: Any = None) -> dict[str, Head]:
    return {client: Head((labels or {}).get(client, ("no", "yes")), HEAD) for client in CLIENTS}


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


def test_a_warm_up_under_noise_trains_b_and_biases_and_rounds_train_everything() -> None:
    head = {**HEAD, "head/classifier.bias": torch.zeros(2)}
    own = {client: Head(("no", "yes"), head) for client in CLIENTS}
    for policy in ("local", "shared", "frozen"):
        method = with_head(FedLease(Budget(1, 2)), policy, own, rests=True)
        state = method.init(adapter(), CLIENTS, 0)
        tasks = {client: method.task(state, client) for client in CLIENTS}
        b = adapter().names("B")
        biases = frozenset() if policy == "frozen" else {"head/classifier.bias"}
        assert all(task is not None and task.trainable == b | biases for task in tasks.values())
        assert all(task is not None and adapter().names("AB") <= task.upload for task in tasks.values())
        state = method.aggregate(state, [train(c, tasks[c], rows) for c, rows in CLIENTS.items()])  # type: ignore[arg-type]
        later = method.task(state, "a0")
        assert later is not None and {"A", "B"} <= {name.split("/")[1] for name in later.trainable}
        assert (head.keys() <= later.trainable) == (policy != "frozen")
