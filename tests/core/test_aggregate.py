"""Weighted means by hand, and what an update must be to enter one."""

import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from fedlease.core.aggregate import (
    MAX_EXAMPLES,
    ClusterMeans,
    check_update,
    client_weights,
    mean_update,
    weighted_mean,
)
from fedlease.core.types import AdapterSpec, ClientModel, ClientTask, ClientUpdate, Stage
from fedlease.errors import UpdateRefusedError


def state(*values: float, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {"q/B/0": torch.tensor(values, dtype=dtype)}


class TestWeightedMean:
    def test_by_hand(self) -> None:
        # (1 x (1, 2) + 3 x (5, -2)) / 4 = (4, -1)
        mean = weighted_mean([state(1, 2), state(5, -2)], [1, 3])
        assert mean["q/B/0"].tolist() == [4, -1]

    def test_only_ratios_of_weights_count(self) -> None:
        states = [state(1, 2), state(5, -2)]
        assert weighted_mean(states, [1e-200, 3e-200])["q/B/0"].tolist() == [4, -1]

    def test_weight_zero_takes_no_part(self) -> None:
        assert weighted_mean([state(1), state(9)], [2, 0])["q/B/0"].tolist() == [1]

    def test_accumulates_in_float64(self) -> None:
        # In float32 2^24 + 1 is 2^24: the ones would be lost one by one.
        states = [state(float(2**24)), *[state(1.0)] * 64]
        exact = (2**24 + 64) / 65
        assert weighted_mean(states, [1] * 65)["q/B/0"].item() == torch.tensor(exact).item()

    def test_largest_float32_does_not_overflow(self) -> None:
        top = torch.finfo(torch.float32).max
        assert weighted_mean([state(top), state(top)], [1, 1])["q/B/0"].item() == top

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_keeps_the_dtype(self, dtype: torch.dtype) -> None:
        mean = weighted_mean([state(1, dtype=dtype), state(2, dtype=dtype)], [1, 1])["q/B/0"]
        assert mean.dtype == dtype
        assert mean.item() == 1.5

    def test_names_are_sorted_and_arguments_untouched(self) -> None:
        one = {"b": torch.ones(2), "a": torch.ones(2)}
        two = {"a": torch.zeros(2), "b": torch.zeros(2)}
        assert list(weighted_mean([one, two], [1, 1])) == ["a", "b"]
        assert torch.equal(one["a"], torch.ones(2))
        assert torch.equal(two["a"], torch.zeros(2))

    def test_result_shares_no_memory_and_needs_no_gradient(self) -> None:
        parameter = torch.nn.Parameter(torch.ones(2))
        mean = weighted_mean([{"a": parameter}], [1])["a"]
        assert not mean.requires_grad
        mean += 1
        assert torch.equal(parameter.data, torch.ones(2))

    @pytest.mark.parametrize(
        ("states", "weights", "message"),
        [
            ([], [], "at least one state, received none"),
            ([state(1)], [1, 1], "one weight per state, received 2 for 1"),
            ([state(1)], [-1], "finite and not negative, received -1"),
            ([state(1)], [float("nan")], "finite and not negative, received nan"),
            ([state(1)], [float("inf")], "finite and not negative, received inf"),
            ([state(1), state(1)], [0, 0], r"positive sum, received \[0, 0\]"),
            ([state(1), {"v": torch.ones(1)}], [1, 1], r"occur in only some: \['q/B/0', 'v'\]"),
            ([state(1), state(1, 2)], [1, 1], r"q/B/0: states must agree .* \(1,\) .* \(2,\)"),
            ([state(1), state(1, dtype=torch.float64)], [1, 1], "q/B/0: states must agree .*float32.*float64"),
            ([{"n": torch.tensor([1])}], [1], "n: only floating tensors can be averaged, received torch.int64"),
        ],
    )
    def test_refusals_name_the_fault(self, states: list[Any], weights: list[float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            weighted_mean(states, weights)


def update(client: str = "a", n: Any = 10, **changes: Any) -> ClientUpdate:
    made = ClientUpdate(client, "experts", 2, n, {"q/A/0": torch.ones(1, 3), "q/B/0": torch.ones(2, 1)})
    return dataclasses.replace(made, **changes)


class TestClusterMeans:
    uploads: ClassVar[dict[str, dict[str, torch.Tensor]]] = {
        client: {"q/A/0": torch.full((1, 2), value), "q/B/0": torch.full((2, 1), -value)}
        for client, value in {"a": 1.0, "b": 10.0, "c": 4.0}.items()
    }

    def test_one_mean_per_cluster_that_uploaded(self) -> None:
        # Cluster 0: (100 x 1 + 300 x 4) / 400 = 3.25, and 2.5 without weights. Cluster 1 has b alone.
        rows, own = {"a": 100, "b": 7, "c": 300}, {"a": 0, "b": 1, "c": 0, "d": 2}
        means = ClusterMeans()(self.uploads, client_weights(rows, "num_examples"), own)
        assert means.keys() == {0, 1}
        assert means[0]["q/A/0"].tolist() == [[3.25, 3.25]] and means[0]["q/B/0"].tolist() == [[-3.25], [-3.25]]
        assert means[1]["q/A/0"].tolist() == [[10, 10]]
        assert ClusterMeans()(self.uploads, client_weights(rows, "uniform"), own)[0]["q/A/0"].tolist() == [[2.5, 2.5]]


class TestMeanUpdate:
    def test_by_rows_or_uniform(self) -> None:
        updates = [update("a", 1, tensors=state(0)), update("b", 3, tensors=state(4))]
        assert mean_update(updates)["q/B/0"].item() == 3
        assert mean_update(updates, "uniform")["q/B/0"].item() == 2

    def test_arrival_order_changes_no_bit(self) -> None:
        g = torch.Generator().manual_seed(0)
        # float64 sums do depend on the order: sorting by client is what makes this hold.
        values = [torch.randn(100, dtype=torch.float64, generator=g) * 10.0**i for i in range(8)]
        updates = [update(f"c{i}", i + 1, tensors={"x": value}) for i, value in enumerate(values)]
        forward, backward = mean_update(updates)["x"], mean_update(updates[::-1])["x"]
        assert torch.equal(forward, backward)
        states, weights = [u.tensors for u in updates], [float(u.num_examples) for u in updates]
        assert not torch.equal(forward, weighted_mean(states[::-1], weights[::-1])["x"])


MODEL = ClientModel(
    AdapterSpec(r=1, alpha=1, dropout=0, target_modules=("q",)),
    {"q/A/0": torch.zeros(1, 3), "q/B/0": torch.zeros(2, 1)},
)
NAMES = frozenset(MODEL.tensors)
TASK = ClientTask("experts", 2, MODEL, (Stage(NAMES, 1),), upload=NAMES)


class TestCheckUpdate:
    def test_what_was_asked_for_passes(self) -> None:
        check_update(TASK, "a", update())
        check_update(TASK, "a", update(), expected_examples=10)
        check_update(TASK, "a", update(n=MAX_EXAMPLES))

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (update("b"), "update is from client 'b'"),
            (update(phase="warmup"), "belongs to 'warmup' round 2, expected 'experts' round 2"),
            (update(round=1), "belongs to 'experts' round 1, expected 'experts' round 2"),
            (update(n=0), "num_examples must be an integer in 1 .. 1000000000000, received 0"),
            (update(n=-5), "received -5"),
            (update(n=True), "received True"),
            (update(n=3.0), "received 3.0"),
            (update(n=float("nan")), "received nan"),
            (update(n=MAX_EXAMPLES + 1), "received 1000000000001"),
            (update(n=11), "num_examples is 11, the client announced 10"),
            (update(tensors=state(1)), r"missing \['q/A/0'\], not asked for \[\]"),
            (update(tensors={**update().tensors, "q/G": torch.ones(1)}), r"missing \[\], not asked for \['q/G'\]"),
            (
                update(tensors={**update().tensors, "q/B/0": torch.ones(1, 2)}),
                r"q/B/0 has shape \(1, 2\), expected \(2, 1\)",
            ),
            (
                update(tensors={**update().tensors, "q/B/0": torch.ones(2, 1, dtype=torch.float64)}),
                "q/B/0 has dtype torch.float64, expected torch.float32",
            ),
            (
                update(tensors={**update().tensors, "q/B/0": torch.tensor([[float("nan")], [1.0]])}),
                "q/B/0 holds 1 values that are NaN or infinite",
            ),
            (
                update(tensors={**update().tensors, "q/A/0": torch.full((1, 3), float("-inf"))}),
                "q/A/0 holds 3 values that are NaN or infinite",
            ),
        ],
    )
    def test_everything_else_is_refused_with_the_reason(self, bad: ClientUpdate, message: str) -> None:
        with pytest.raises(UpdateRefusedError, match=message) as caught:
            check_update(TASK, "a", bad, expected_examples=10 if "announced" in message else None)
        assert caught.value.client == "a"
        assert str(caught.value) == f"client 'a': {caught.value.reason}"
