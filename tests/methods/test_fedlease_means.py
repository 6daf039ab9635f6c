"""Shrunk experts, means of products and routers that start at the own expert: ours, derived by hand."""

from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, constant, made, train, within
from small import own_rows, small_run
from torch import Tensor

from fedlease.core.aggregate import client_weights, weighted_mean
from fedlease.core.codec import dumps
from fedlease.core.types import Budget, TensorName
from fedlease.methods.fedlease_means import MEANS, Shrunk, shrinkage

BUDGET = Budget(2, 3)

ROWS = {"a0": 10, "a1": 30, "b0": 60}
OWN = {"a0": 0, "a1": 0, "b0": 1}


def flat(a: float, b: float) -> dict[str, Tensor]:
    """One module of 1 x 1 matrices."""
    return {"m/A/0": torch.tensor([[float(a)]]), "m/B/0": torch.tensor([[float(b)]])}


def directed(*b: float) -> dict[str, Tensor]:
    """One module whose B has this direction, (4, 1)."""
    return {"m/A/0": torch.ones(1, 2), "m/B/0": torch.tensor([b], dtype=torch.float32).T}


UPLOADS = {"a0": flat(1, 1), "a1": flat(3, 3), "b0": flat(10, 10)}


def expert_means(uploads: Any, rows: Any, own: Any, *, weighting: Any = "num_examples", **how: Any) -> Any:
    means = Shrunk(how.get("shrink", 0.0), MEANS[how.get("average", "factors")](0.1))
    return means(uploads, client_weights(rows, weighting), own)


def value(state: Any, kind: str = "A") -> float:
    return float(state[f"m/{kind}/0"])


class TestShrink:
    @pytest.mark.parametrize(
        ("weighting", "w", "a", "b"),
        [
            # Cluster a: (10 x 1 + 30 x 3) / 40 = 2.5, cluster b: 10; all: (10 + 90 + 600) / 100 = 7.
            ("num_examples", 0.0, 2.5, 10.0),
            ("num_examples", 0.25, 0.75 * 2.5 + 0.25 * 7, 0.75 * 10 + 0.25 * 7),
            ("num_examples", 1.0, 7.0, 7.0),
            # 2, 10 and 14/3.
            ("uniform", 0.5, 1 + 7 / 3, 5 + 7 / 3),
        ],
    )
    def test_an_expert_is_drawn_towards_the_mean_of_all(self, weighting: Any, w: float, a: float, b: float) -> None:
        found = expert_means(UPLOADS, ROWS, OWN, weighting=weighting, shrink=w)
        for kind in "AB":
            assert value(found[0], kind) == pytest.approx(a) and value(found[1], kind) == pytest.approx(b)

    def test_without_it_every_bit_is_that_of_the_mean(self) -> None:
        uploads = {c: {n: torch.randn(3, 3) for n in ("m/A/0", "m/B/0")} for c in OWN}
        found = expert_means(uploads, ROWS, OWN)
        assert dumps(found[0]) == dumps(weighted_mean([uploads["a0"], uploads["a1"]], [10.0, 30.0]))

    def test_clients_who_sent_nothing_count_nowhere(self) -> None:
        found = expert_means({"a1": UPLOADS["a1"], "b0": UPLOADS["b0"]}, ROWS, OWN, shrink=0.5)
        # All: (90 + 600) / 90.
        assert value(found[0]) == pytest.approx(1.5 + 690 / 180)
        found = expert_means({"b0": UPLOADS["b0"]}, ROWS, OWN, shrink=0.5)
        assert found.keys() == {1} and value(found[1]) == 10.0
        assert expert_means({}, ROWS, OWN, shrink="auto") == {}

    def test_of_products_it_is_the_product_that_is_shrunk(self) -> None:
        """1 x 1, w = 1/2, equal rows: products 4 and 16 become (4 + 10) / 2 = 7 and 13; by factors, 2 and 4 become
        2.5 and 3.5, products 6.25 and 12.25."""
        uploads = {"a0": flat(2, 2), "b0": flat(4, 4)}
        for average, expected in (("product", [7.0, 13.0]), ("factors", [6.25, 12.25])):
            found = expert_means(uploads, {"a0": 5, "b0": 5}, OWN, average=average, shrink=0.5)
            assert [value(found[e]) * value(found[e], "B") for e in (0, 1)] == pytest.approx(expected)


class TestAutomaticShrink:
    def test_it_follows_the_distances_within_and_between_and_the_size_of_the_cluster(self) -> None:
        """Within a: cos((1, 0), (.6, .8)) = .6, so d = .4; between: 1. s = .6, and w = .4 / (1 + .6 (n - 1))."""
        uploads = {"a0": directed(1, 0, 0, 0), "a1": directed(0.6, 0.8, 0, 0), "b0": directed(0, 0, 5, 0)}
        assert shrinkage(uploads, OWN) == pytest.approx({0: 0.4 / 1.6, 1: 0.4})
        found = expert_means(uploads, ROWS, OWN, weighting="uniform", shrink="auto")
        # b: .6 x (0, 0, 5, 0) + .4 x (1.6, .8, 5, 0) / 3.
        expected = torch.tensor([0.4 * 1.6 / 3, 0.4 * 0.8 / 3, 3 + 2 / 3, 0])
        assert torch.allclose(found[1]["m/B/0"].flatten(), expected)

    @pytest.mark.parametrize(
        ("directions", "w"),
        [
            # Clusters that are points: sure.
            ({"a0": (1, 0, 0, 0), "a1": (2, 0, 0, 0), "b0": (0, 1, 0, 0)}, 0.0),
            # Nobody is near to anybody: the groups mean nothing.
            ({"a0": (1, 0, 0, 0), "a1": (0, 1, 0, 0), "b0": (0, 0, 1, 0)}, 1.0),
            # The other cluster is nearer than the own one.
            ({"a0": (1, 0, 0, 0), "a1": (-1, 0, 0, 0), "b0": (1, 0, 0, 0)}, 1.0),
            # Everyone the same.
            ({"a0": (1, 0, 0, 0), "a1": (1, 0, 0, 0), "b0": (1, 0, 0, 0)}, 1.0),
            # Nothing to compare with: one client per cluster, or one cluster.
            ({"a0": (1, 0, 0, 0), "b0": (0, 1, 0, 0)}, 0.0),
            ({"a0": (1, 0, 0, 0), "a1": (0, 1, 0, 0)}, 0.0),
        ],
    )
    def test_ends_of_the_scale(self, directions: dict[str, Any], w: float) -> None:
        found = shrinkage({client: directed(*b) for client, b in directions.items()}, OWN)
        assert set(found.values()) == {w}


def played(method: Any, steps: int) -> Any:
    state = method.init(adapter(), CLIENTS, 0)
    for _ in range(steps):
        tasks = {client: task for client in CLIENTS if (task := method.task(state, client)) is not None}
        state = method.aggregate(state, [train(client, task, CLIENTS[client]) for client, task in tasks.items()])
    return state


class TestTheMethod:
    def test_the_first_experts_are_shrunk_as_those_of_every_round(self) -> None:
        """All weight on everyone: one expert for all, after the warm-up and after a round."""
        for steps in (1, 2):
            state = played(made("fedlease", BUDGET, shrink=1.0), steps)
            assert len(state.experts) == 2
            for name, tensor in state.experts[0].items():
                assert torch.allclose(tensor, state.experts[1][name], atol=1e-6)

    def test_routers_are_never_shrunk(self) -> None:
        """Constants 0, 1, ... for clients in order of their ids: cluster a (10, 20, 30 rows) has 80 / 60."""
        method = made("fedlease", BUDGET, shrink=0.5)
        state = played(method, 1)
        tasks = [(i, c, method.task(state, c)) for i, c in enumerate(sorted(CLIENTS))]
        state = method.aggregate(state, [constant(train(c, t, CLIENTS[c]), float(i)) for i, c, t in tasks if t])
        # All: (80 + 10 x 3 + 20 x 4 + 30 x 5) / 120 = 340 / 120.
        for tensor in state.experts[0].values():
            assert torch.allclose(tensor, torch.full_like(tensor, 40 / 60 + 170 / 120))
        for tensor in within(state, "routers")[0].values():
            assert torch.allclose(tensor, torch.full_like(tensor, 80 / 60))

    def test_a_cluster_without_updates_keeps_its_expert(self) -> None:
        method = made("fedlease", BUDGET, shrink="auto", average="product")
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
            "fedlease.top_k: with router_start = 'own' the 2 largest of 7 slots are own ones at first: the router has "
            "next to nothing to learn from",
        )
        for start in ("own", "random"):
            state = played(made("fedlease", BUDGET, top_k=1, num_experts=4, router_start=start), 1)
            assert state.notes == (
                "fedlease.top_k: the one slot that is kept weighs 1 whatever its logit is, so routers are not trained "
                "and stay as they were drawn; fedlease.renormalise=false trains them",
            )
        assert played(made("fedlease", BUDGET, top_k=1, num_experts=4, renormalise=False), 1).notes == ()
        assert played(made("fedlease", BUDGET, top_k=1, num_experts=1), 1).notes == ()
        for fine in ({"top_k": 3}, {"top_k": 2, "renormalise": False}, {"top_k": 2, "router_start": "random"}):
            assert played(made("fedlease", BUDGET, **{**parameters, **fine}), 1).notes == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"fedlease__shrink": 0.25, "fedlease__average": "product"},
        {"fedlease__shrink": "auto", "fedlease__router_start": "own"},
        {"fedlease__reallocate": 1, "fedlease__router": "client", "head": "shared"},
    ],
)
def test_variants_run_to_the_end(changes: dict[str, Any], tmp_path: Any) -> None:
    if changes.get("head") == "shared":
        changes = {**changes, "data__path": str(own_rows(tmp_path / "rows"))}
    result = small_run(tmp_path / "r", baselines=[], **changes)
    assert 0 <= result.summary["mean"] <= 1
    assert (tmp_path / "r" / "report.html").is_file()
