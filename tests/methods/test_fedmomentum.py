"""FedMomentum: nothing of the mean of products is lost but what the share of its energy says."""

import torch
from contract.planted import CLIENTS, adapter, made, train
from methods.sums import assert_exact_mean_after_every_round, whole_update

from fedlease.core.residual import parted
from fedlease.core.types import Budget

BUDGET = Budget(1, 3)
A, B = "m/A/0", "m/B/0"


def test_with_all_energy_everyone_has_the_exact_mean_of_the_products() -> None:
    assert_exact_mean_after_every_round(made("fedmomentum", BUDGET, energy=1.0))


def test_singular_values_count_until_their_squares_are_the_share() -> None:
    # Singular values 4, 2, 2, 1: squares 16, 4, 4, 1 of 25 in all, so .64, .80, .96 and 1.
    product = {A: torch.diag(torch.tensor([4.0, 2.0, 2.0, 1.0])).double(), B: torch.eye(4).double()}
    for energy, beyond in ((0.5, 0), (0.8, 0), (0.81, 1), (0.97, 2), (1.0, 2)):
        major, rest = parted(product, 2, energy)
        assert len(rest[A]) == rest[B].shape[1] == beyond
        torch.testing.assert_close(torch.linalg.svdvals(major[B] @ major[A])[:2], torch.tensor([4.0, 2.0]).double())


def test_the_adapter_is_the_best_approximation_of_the_mean_and_its_halves_are_balanced() -> None:
    method = made("fedmomentum", BUDGET)
    state = method.init(adapter(), CLIENTS, 0)
    flex = made("flexlora", BUDGET)
    of_flex = flex.init(adapter(), CLIENTS, 0)
    updates = [train(client, method.task(state, client), CLIENTS[client]) for client in CLIENTS]
    after, expected = method.aggregate(state, updates), flex.aggregate(of_flex, updates)
    for module, change in whole_update(after.adapter).items():
        torch.testing.assert_close(change, whole_update(expected.adapter)[module], atol=1e-5, rtol=1e-5)
    assert {len(tensor) for name, tensor in after.residual.items() if "/A/" in name} != {0}
