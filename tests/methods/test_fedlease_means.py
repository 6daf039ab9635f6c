"""Means of products and routers that start at the own expert: ours, derived by hand."""

from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, made, train, within
from small import own_rows, small_run

from fedlease.core.codec import dumps
from fedlease.core.types import Budget, TensorName

BUDGET = Budget(2, 3)


def played(method: Any, steps: int) -> Any:
    state = method.init(adapter(), CLIENTS, 0)
    for _ in range(steps):
        tasks = {client: task for client in CLIENTS if (task := method.task(state, client)) is not None}
        state = method.aggregate(state, [train(client, task, CLIENTS[client]) for client, task in tasks.items()])
    return state


class TestTheMethod:
    def test_a_cluster_without_updates_keeps_its_expert(self) -> None:
        method = made("fedlease", BUDGET, average="product")
        state = played(method, 1)
        task = method.task(state, "a0")
        assert task is not None
        after = method.aggregate(state, [train("a0", task, 10)])
        assert dumps(after.experts[1]) == dumps(state.experts[1])
        assert dumps(after.experts[0]) != dumps(state.experts[0])

    def test_a_mean_of_products_keeps_what_a_mean_of_factors_may_lose(self) -> None:
        """a0 and a1 send the same update with the signs of A and B turned; a2 sends nothing."""
        expected = None
        for average in ("product", "factors"):
            method = made("fedlease", BUDGET, average=average, weights="uniform")
            state = played(method, 1)
            task = method.task(state, "a0")
            assert task is not None
            sent = train("a0", task, 10)
            turned = {n: -t if TensorName.parse(n).kind in "AB" else t for n, t in sent.tensors.items()}
            after = method.aggregate(state, [sent, type(sent)("a1", sent.phase, sent.round, 20, turned)])
            for module in ("layer.0.query", "layer.10.value"):
                found = after.experts[0][f"{module}/B/0"] @ after.experts[0][f"{module}/A/0"]
                expected = sent.tensors[f"{module}/B/0"] @ sent.tensors[f"{module}/A/0"]
                assert torch.allclose(found, expected if average == "product" else torch.zeros(()), atol=1e-5)

    def test_routers_that_start_at_the_own_expert_are_the_same_for_all_clusters(self) -> None:
        state = played(made("fedlease", BUDGET, router_start="own"), 1)
        # M = 2: own slots 0 and 1 are one mirrored pair.
        for name, router in within(state, "routers")[0].items():
            assert torch.equal(router, within(state, "routers")[1][name])
            assert torch.equal(router[0], -router[1])
        assert state.notes == ()

    def test_fewer_slots_than_the_own_ones_on_top_are_said_to_teach_nothing(self) -> None:
        parameters: dict[str, Any] = {"num_experts": 4, "router_start": "own"}
        state = played(made("fedlease", BUDGET, top_k=2, **parameters), 1)
        assert state.notes == (
            "fedlease.top_k: with router_start = 'own', the 2 largest of 7 slots are own ones at first, so the router "
            "hardly gets any gradient",
        )
        for start in ("own", "random"):
            state = played(made("fedlease", BUDGET, top_k=1, num_experts=4, router_start=start), 1)
            assert state.notes == (
                "fedlease.top_k: the only slot that is kept weighs 1 whatever its logit is, so routers are not "
                "trained; fedlease.renormalise=false trains them",
            )
        assert played(made("fedlease", BUDGET, top_k=1, num_experts=4, renormalise=False), 1).notes == ()
        assert played(made("fedlease", BUDGET, top_k=1, num_experts=1), 1).notes == ()
        for fine in ({"top_k": 3}, {"top_k": 2, "renormalise": False}, {"top_k": 2, "router_start": "random"}):
            assert played(made("fedlease", BUDGET, **{**parameters, **fine}), 1).notes == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"fedlease__average": "product", "fedlease__router_start": "own"},
        {"fedlease__reallocate": 1, "fedlease__router": "client", "head": "shared"},
    ],
)
def test_variants_run_to_the_end(changes: dict[str, Any], tmp_path: Any) -> None:
    if changes.get("head") == "shared":
        changes = {**changes, "data__path": str(own_rows(tmp_path / "rows"))}
    result = small_run(tmp_path / "r", baselines=[], **changes)
    assert 0 <= result.summary["mean"] <= 1
    assert (tmp_path / "r" / "report.html").is_file()
