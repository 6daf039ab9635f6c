"""Subspaces of B: distances by hand, planted clusters, and who is nearest."""

import math

import pytest
import torch

from fedlease.core.seeds import generator
from fedlease.core.subspaces import grouped, nearest, smoothed, subspace_distance

EYE = torch.eye(6)


def b(*columns: int) -> dict[str, torch.Tensor]:
    return {"m": EYE[:, list(columns)]}


def test_one_subspace_is_at_0_orthogonal_ones_at_1_and_one_common_column_of_two_at_a_half() -> None:
    assert subspace_distance(b(0, 1), b(1, 0)) == pytest.approx(0)
    assert subspace_distance(b(0, 1), {"m": 7 * EYE[:, :2] @ torch.tensor([[1.0, 2.0], [0.0, 1.0]])}) == pytest.approx(
        0
    )
    assert subspace_distance(b(0, 1), b(2, 3)) == pytest.approx(1)
    assert subspace_distance(b(0, 1), b(1, 2)) == pytest.approx(0.5)
    # Columns at 60 degrees: cos^2 = 1/4 of the first, all of the second.
    turned = {"m": torch.stack([0.5 * EYE[:, 0] + math.sqrt(0.75) * EYE[:, 2], EYE[:, 1]], 1)}
    assert subspace_distance(b(0, 1), turned) == pytest.approx(1 - 1.25 / 2)
    assert subspace_distance(b(0, 1), {"m": torch.zeros(6, 2)}) == 1, "no direction"


def planted(client: str) -> dict[str, torch.Tensor]:
    group = "abc".index(client[0])
    return {"m": EYE[:, [2 * group, 2 * group + 1]] + 0.1 * torch.randn(6, 2, generator=generator(0, client))}


def test_planted_clusters_are_found_and_a_newcomer_is_placed_with_its_own() -> None:
    clients = {f"{group}{i}": planted(f"{group}{i}") for group in "abc" for i in range(3)}
    found = grouped(clients, 8)
    assert found.assignment == {client: "abc".index(client[0]) for client in clients} and found.num_experts == 3
    assert nearest(planted("b9"), clients, found.assignment) == 1
    assert grouped(clients, 2).num_experts == 2, "no more than asked for"
    pair = subspace_distance(clients["a0"], clients["b2"])
    assert found.distances[0, 5] == found.distances[5, 0] == pytest.approx(pair)


def test_few_or_equal_clients_are_one_cluster() -> None:
    for clients in ({"a": b(0, 1), "b": b(2, 3)}, {name: b(0, 1) for name in "abcd"}):
        assert set(grouped(clients, 8).assignment.values()) == {0}


def test_the_past_counts_by_its_share_and_lengths_not_at_all() -> None:
    first = smoothed(None, {"m": torch.tensor([[3.0], [4.0]])}, 0.5)
    torch.testing.assert_close(first["m"], torch.tensor([[0.6], [0.8]]))
    # (0.6, 0.8) / 2 + (0.6, -0.8) / 2 = (0.6, 0), of length 1: (1, 0).
    torch.testing.assert_close(
        smoothed(first, {"m": torch.tensor([[30.0], [-40.0]])}, 0.5)["m"], torch.tensor([[1.0], [0]])
    )
