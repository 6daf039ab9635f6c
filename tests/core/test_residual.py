"""Updates of the frozen weights: exact sums of products, cut into experts that are summed."""

import torch
from contract.planted import SHAPES, adapter

from fedlease.core.aggregate import weighted_mean
from fedlease.core.residual import extended, lacking, on_residual, stacked
from fedlease.core.types import TensorName, Tensors

MODULE = "m"
A, B = f"{MODULE}/A/0", f"{MODULE}/B/0"


def state(r: int, seed: int) -> Tensors:
    rng = torch.Generator().manual_seed(seed)
    return {A: torch.randn(r, 5, generator=rng), B: torch.randn(4, r, generator=rng)}


def product(tensors: Tensors) -> torch.Tensor:
    return tensors[B].double() @ tensors[A].double()


def test_stacked_pairs_are_the_weighted_sum_of_products_of_any_ranks() -> None:
    states, weights = [state(1, 0), state(3, 1), state(2, 2)], [1.0, 2.0, 5.0]
    pair = stacked(states, weights)
    assert pair[A].shape == (6, 5) and pair[B].shape == (4, 6)
    expected = sum((product(s) * w / 8 for s, w in zip(states, weights, strict=True)), torch.zeros(()))
    torch.testing.assert_close(product(pair), expected)


def test_what_the_product_of_means_lacks_is_of_rank_n_minus_1_times_r() -> None:
    states, weights = [state(2, seed) for seed in range(3)], [1.0, 2.0, 5.0]
    mean = weighted_mean(states, weights)
    lack = lacking(states, weights, mean)
    assert lack[A].shape == (4, 5) and lack[B].shape == (4, 4)
    expected = product(stacked(states, weights)) - product(mean)
    torch.testing.assert_close(product(lack), expected, atol=1e-6, rtol=0)
    # By hand, for two clients of one number each: w = 1/4, 3/4; means 3.5 and 2.5; 0.25 x 2 x 4 + 0.75 x 4 x 2 = 8,
    # 3.5 x 2.5 = 8.75, so -0.75 is lacking.
    two = [{A: torch.tensor([[4.0]]), B: torch.tensor([[2.0]])}, {A: torch.tensor([[2.0]]), B: torch.tensor([[4.0]])}]
    found = lacking(two, [1, 3], weighted_mean(two, [1, 3]))
    torch.testing.assert_close(product(found), torch.tensor([[-0.75]], dtype=torch.float64))


def test_one_client_lacks_nothing() -> None:
    alone = [state(2, 0)]
    lack = extended({}, lacking(alone, [3.0], weighted_mean(alone, [3.0])))
    assert lack[A].shape == (0, 5) and lack[B].shape == (4, 0)
    model = adapter()
    assert on_residual(model, {}) is model
    nothing = {
        str(TensorName(module, kind, 0)): torch.empty((0, n_in) if kind == "A" else (n_out, 0))
        for module, (n_in, n_out) in SHAPES.items()
        for kind in "AB"
    }
    assert on_residual(model, nothing) is model


def test_a_residual_has_at_most_twice_the_rank_of_its_matrix_and_loses_nothing() -> None:
    residual, expected = dict[str, torch.Tensor](), torch.zeros(4, 5, dtype=torch.float64)
    # Three more each time; of a matrix of rank 4 at most, 9 are written anew as 4.
    for seed, rank in enumerate((3, 6, 4, 7)):
        more = stacked([state(1, seed), state(2, seed + 10)], [1.0, 1.0])
        residual, expected = extended(residual, more), expected + product(more)
        assert residual[A].shape[0] == rank
        torch.testing.assert_close(product(residual), expected, atol=1e-6, rtol=1e-6)
