"""Means of products and their LoRA pairs, on matrices small enough to be written down."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fedlease.core.aggregate import weighted_mean
from fedlease.core.refactor import product_mean, truncate


def pair(b: Any, a: Any) -> dict[str, Tensor]:
    return {"m/A/0": torch.tensor(a, dtype=torch.float32), "m/B/0": torch.tensor(b, dtype=torch.float32)}


def drawn(seed: int, r: int, features: tuple[int, int] = (6, 5)) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "m/A/0": torch.randn(r, features[0], generator=draw),
        "m/B/0": torch.randn(features[1], r, generator=draw),
    }


def product(state: Any) -> Tensor:
    found: Tensor = state["m/B/0"].double() @ state["m/A/0"].double()
    return found


E1, E2 = pair([[1], [0]], [[2, 0]]), pair([[0], [1]], [[0, 1]])
"""Products diag(2, 0) and diag(0, 1)."""


class TestProductMean:
    @pytest.mark.parametrize(
        ("weights", "best"),
        [
            # diag(1, 1/2): the larger direction is kept.
            ([1.0, 1.0], [[1, 0], [0, 0]]),
            # diag(2/5, 4/5), with weights that do not sum to 1.
            ([2.0, 8.0], [[0, 0], [0, 0.8]]),
        ],
    )
    def test_is_the_nearest_pair_of_the_rank(self, weights: list[float], best: Any) -> None:
        found = product_mean([E1, E2], weights)
        assert torch.allclose(product(found), torch.tensor(best, dtype=torch.float64), atol=1e-6)
        assert found["m/A/0"].shape == (1, 2) and found["m/B/0"].shape == (2, 1)
        # The mean of the factors is another matrix: [1/2, 1/2]^T [1, 1/2] for equal weights.
        factors = product(weighted_mean([E1, E2], [1.0, 1.0]))
        assert torch.allclose(factors, torch.tensor([[0.5, 0.25], [0.5, 0.25]], dtype=torch.float64))

    def test_two_pairs_of_one_product_and_opposite_signs_do_not_cancel(self) -> None:
        one = drawn(0, 2)
        other = {name: -tensor for name, tensor in one.items()}
        assert not product(weighted_mean([one, other], [1.0, 1.0])).any()
        assert torch.allclose(product(product_mean([one, other], [1.0, 1.0])), product(one), atol=1e-5)

    @pytest.mark.parametrize(("r", "count"), [(1, 3), (2, 2), (2, 5), (5, 2)])
    def test_is_as_near_as_any_matrix_of_the_rank(self, r: int, count: int) -> None:
        # Eckart-Young on the product written out: N r below, at and above the 5 x 6 of the layer.
        states, weights = [drawn(seed, r) for seed in range(count)], [float(i + 1) for i in range(count)]
        wanted = sum(
            (w / sum(weights) * product(state) for w, state in zip(weights, states, strict=True)), torch.zeros(())
        )
        assert isinstance(wanted, Tensor)
        error = (product(product_mean(states, weights)) - wanted).norm().item()
        assert error == pytest.approx(torch.linalg.svdvals(wanted)[r:].norm().item(), rel=1e-4, abs=1e-5)

    def test_of_one_is_its_own_product_balanced(self) -> None:
        one = drawn(3, 2)
        found = product_mean([one], [7.0])
        assert torch.allclose(product(found), product(one), atol=1e-5)
        singular = torch.linalg.svdvals(product(one))[:2]
        a, b = found["m/A/0"].double(), found["m/B/0"].double()
        for square in (a @ a.T, b.T @ b):
            assert torch.allclose(square, singular.diag(), atol=1e-5)

    def test_directions_that_no_product_has_can_still_learn(self) -> None:
        """B = 0 with A = 0 would be a point that training never leaves: both gradients are zero there."""
        untrained = {"m/A/0": drawn(0, 2)["m/A/0"], "m/B/0": torch.zeros(5, 2)}
        found = product_mean([untrained, untrained], [1.0, 1.0])
        assert not found["m/B/0"].any()
        assert torch.allclose(found["m/A/0"].norm(dim=1), torch.ones(2))
        # One direction of two: diag(2, 0) as a pair of rank 2.
        thin = pair([[1, 0], [0, 0]], [[2, 0], [0, 0]])
        found = product_mean([thin], [1.0])
        assert torch.allclose(product(found), torch.tensor([[2.0, 0], [0, 0]], dtype=torch.float64), atol=1e-6)
        assert torch.allclose(found["m/A/0"].norm(dim=1), torch.tensor([2.0**0.5, 1.0]))
        assert torch.allclose(found["m/B/0"].norm(dim=0), torch.tensor([2.0**0.5, 0.0]))

    def test_other_tensors_are_plain_means_and_faults_are_named_as_there(self) -> None:
        states = [{**E1, "m/G": torch.ones(3, 2)}, {**E2, "m/G": torch.zeros(3, 2)}]
        assert torch.allclose(product_mean(states, [1.0, 3.0])["m/G"], torch.full((3, 2), 0.25))
        with pytest.raises(ValueError, match="m/A/0: states must agree in shape and dtype"):
            product_mean([E1, drawn(0, 1)], [1.0, 1.0])
        with pytest.raises(ValueError, match="weights must have a positive sum"):
            product_mean([E1], [0.0])

    def test_arguments_are_left_unchanged(self) -> None:
        states = [drawn(seed, 2) for seed in (0, 1)]
        product_mean(states, [1.0, 2.0])
        for seed, state in enumerate(states):
            assert all(torch.equal(state[name], tensor) for name, tensor in drawn(seed, 2).items())


def test_truncation_keeps_the_largest_singular_values_balanced() -> None:
    """b a = diag(9, 4, 1): rank 2 leaves diag(9, 4, 0), with sides of length 3 and 2."""
    a, b = truncate(torch.eye(3, dtype=torch.float64), torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64).diag(), 2)
    assert torch.allclose(b @ a, torch.tensor([9.0, 4.0, 0.0], dtype=torch.float64).diag())
    for lengths in (a.norm(dim=1), b.norm(dim=0)):
        assert torch.allclose(lengths, torch.tensor([3.0, 2.0], dtype=torch.float64))
