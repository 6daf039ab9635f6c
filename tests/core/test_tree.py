"""One tree, cut in every layer: layers by their numbers, distances by hand, cuts that only ever split."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedlease.core.codec import dumps, loads
from fedlease.core.tree import cut_layers, layer_distances, layers_of


def test_a_layer_is_the_first_number_of_a_path() -> None:
    modules = ["h.10.v", "h.2.q", "h.2.v.0", "h.10.q", "pooler", "embed"]
    assert layers_of(modules) == (("h.2.q", "h.2.v.0"), ("h.10.q", "h.10.v"), ("embed",), ("pooler",))


def test_distances_are_means_over_the_modules_of_a_layer() -> None:
    # Frobenius: q (3, 0) to (0, 4) is 5, v (1, 0) to (1, 0) is 0: mean 2.5. Cosine: 1 - 0 and 1 - 1: mean .5.
    b = {
        "one": {"h.0.q": torch.tensor([[3.0], [0.0]]), "h.0.v": torch.tensor([[1.0], [0.0]])},
        "two": {"h.0.q": torch.tensor([[0.0], [4.0]]), "h.0.v": torch.tensor([[1.0], [0.0]])},
    }
    layers = layers_of(list(b["one"]))
    (frobenius,) = layer_distances(b, layers, "frobenius")
    (cosine,) = layer_distances(b, layers, "cosine")
    assert torch.equal(frobenius, torch.tensor([[0, 2.5], [2.5, 0]], dtype=torch.float64))
    assert torch.equal(cosine, torch.tensor([[0, 0.5], [0.5, 0]], dtype=torch.float64))


def planted(points: dict[str, list[float]]) -> dict[str, dict[str, Tensor]]:
    """One module of one number per layer."""
    return {c: {f"h.{i}.q": torch.tensor([[v]]) for i, v in enumerate(values)} for c, values in points.items()}


def test_the_trunk_is_shared_and_the_branches_split() -> None:
    # Layer 0: all alike, where every silhouette is 0, below tau. Layer 1: two pairs. Layer 2: four places, but one
    # more group than before is all that a window of 2 allows: pairs 0, 1 | 40, 60, of which the wider one splits.
    b = planted({"a": [1, 0, 0], "b": [1, 0, 1], "c": [1, 10, 40], "d": [1, 10, 60]})
    first, second, third = cut_layers(b, window=2, tau=0.05)
    assert first.labels == {"a": 0, "b": 0, "c": 0, "d": 0}
    assert first.scores == {1: 0.05, 2: 0.0}
    assert second.labels == {"a": 0, "b": 0, "c": 1, "d": 1}
    assert second.scores == {1: 0.05, 2: 1.0}
    # Silhouette of c = 2 on 0, 1, 40, 60: a: 1 - 1/50, b: 1 - 1/49, c: 1 - 20/39.5, d: 1 - 20/59.5, mean .79.
    two = (4 - 1 / 50 - 1 / 49 - 20 / 39.5 - 20 / 59.5) / 4
    # Of c = 3 with c and d apart: singletons count 0, a: 1 - 1/40, b: 1 - 1/39, mean .49.
    three = (2 - 1 / 40 - 1 / 39) / 4
    assert third.scores == pytest.approx({2: two, 3: three})
    assert third.labels == second.labels
    assert [cut.modules for cut in (first, second, third)] == [("h.0.q",), ("h.1.q",), ("h.2.q",)]


def test_tau_decides_the_first_split_and_a_window_of_one_never_splits() -> None:
    b = planted({"a": [0], "b": [1], "c": [10], "d": [11]})
    (split,) = cut_layers(b, window=2, tau=0.5)
    assert split.num_groups == 2
    (whole,) = cut_layers(b, window=2, tau=1)
    assert whole.num_groups == 1
    (whole,) = cut_layers(b, window=1, tau=-1)
    assert whole.scores == {1: -1}


@pytest.mark.parametrize("clients", [1, 2])
def test_one_or_two_clients_share_everything(clients: int) -> None:
    b = planted({str(c): [float(c), float(3 * c)] for c in range(clients)})
    assert [cut.num_groups for cut in cut_layers(b, window=4, tau=-1)] == [1, 1]


@given(
    values=st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=1, max_size=8),
    window=st.integers(1, 5),
    tau=st.floats(-1, 1),
    cosine=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_groups_only_ever_split_and_never_faster_than_the_window(
    values: list[list[float]], window: int, tau: float, cosine: bool
) -> None:
    b = planted({f"c{i}": row for i, row in enumerate(values)})
    cuts = cut_layers(b, window=window, tau=tau, distance="cosine" if cosine else "frobenius")
    before = 1
    parents = dict.fromkeys(b, 0)
    for cut in cuts:
        assert before <= cut.num_groups <= before + window - 1
        assert cut.num_groups == 1 or cut.num_groups < len(b)
        assert sorted(set(cut.labels.values())) == list(range(cut.num_groups))
        groups = {label: {parents[c] for c in b if cut.labels[c] == label} for label in range(cut.num_groups)}
        assert all(len(parent) == 1 for parent in groups.values()), "a group holds clients that were apart"
        before, parents = cut.num_groups, dict(cut.labels)
    assert loads(dumps(cuts)) == cuts


def test_parameters_out_of_range_are_named() -> None:
    b = planted({"a": [0], "b": [1]})
    with pytest.raises(ValueError, match="window must be at least 1, received 0"):
        cut_layers(b, window=0, tau=0)
    with pytest.raises(ValueError, match="tau must be in"):
        cut_layers(b, window=2, tau=1.5)
    with pytest.raises(ValueError, match="NaN or infinite"):
        cut_layers(planted({"a": [math.nan], "b": [1]}), window=2, tau=0)
    with pytest.raises(ValueError, match="at least one client"):
        cut_layers({}, window=2, tau=0)
