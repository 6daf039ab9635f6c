"""Folded mixtures, means of products and truncation, on matrices small enough to be written down."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fedlease.core.adapters import initial_adapter
from fedlease.core.aggregate import weighted_mean
from fedlease.core.folding import expert_alone, fold
from fedlease.core.low_rank import at_rank, best_pair, padded, product_mean, truncate
from fedlease.core.types import AdapterSpec, ClientModel, TensorName

M, R, IN, OUT = 3, 2, 6, 5


def mixture(seed: int = 0) -> ClientModel:
    draw = torch.Generator().manual_seed(seed)
    tensors = {"head/classifier.weight": torch.ones(2, OUT)}
    for module in ("l.q", "l.v"):
        for e in range(M):
            tensors[str(TensorName(module, "A", e))] = torch.randn(R, IN, generator=draw)
            tensors[str(TensorName(module, "B", e))] = torch.randn(OUT, R, generator=draw)
        tensors[str(TensorName(module, "G"))] = torch.randn(2 * M - 1, IN, generator=draw)
    spec = AdapterSpec(R, 8.0, 0.1, ("l.q", "l.v"), num_experts=M, own=1, mixer="top_m", top_k=2, renormalise=False)
    return ClientModel(spec, tensors)


def update(model: ClientModel, module: str, weights: list[float]) -> torch.Tensor:
    """(alpha / r) sum of w_e B_e A_e, written out."""
    total = torch.zeros(OUT, IN, dtype=torch.float64)
    for e, w in enumerate(weights):
        b, a = (model.tensors[str(TensorName(module, kind, e))].double() for kind in ("B", "A"))
        total += w * b @ a
    return model.spec.alpha / model.spec.r * total


WEIGHTS = {"l.q": [0.5, 0.3, 0.2], "l.v": [0.0, 1.0, 0.25]}


@pytest.mark.parametrize("module", ["l.q", "l.v"])
def test_folding_is_the_weighted_sum_of_the_experts(module: str) -> None:
    model = mixture()
    folded = fold(model, WEIGHTS)
    assert (folded.spec.r, folded.spec.alpha) == (M * R, 8.0 / 2 * 6)
    assert torch.allclose(update(folded, module, [1.0]), update(model, module, WEIGHTS[module]), atol=1e-5)


def test_a_folded_model_is_a_single_adapter_with_the_head() -> None:
    folded = fold(mixture(), WEIGHTS)
    spec = folded.spec
    assert (spec.num_experts, spec.own, spec.mixer, spec.top_k, spec.renormalise) == (1, 0, "none", None, True)
    assert spec.dropout == 0.1
    assert set(folded.tensors) == {"l.q/A/0", "l.q/B/0", "l.v/A/0", "l.v/B/0", "head/classifier.weight"}


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_truncation_is_the_best_of_its_rank(rank: int) -> None:
    # Eckart-Young: the squared error is the sum of the squared singular values left out.
    model = mixture()
    folded = fold(model, WEIGHTS, rank)
    assert folded.spec.r == rank
    for module in ("l.q", "l.v"):
        wanted = update(model, module, WEIGHTS[module])
        error = (update(folded, module, [1.0]) - wanted).norm().item()
        left_out = torch.linalg.svdvals(wanted)[rank:].norm().item()
        assert error == pytest.approx(left_out, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("rank", [5, 6])
def test_above_the_smaller_side_of_a_module_the_fold_is_exact_and_filled_up(rank: int) -> None:
    # M r = 6 directions of a product whose smaller side is 5.
    model = mixture()
    folded = fold(model, WEIGHTS, rank)
    assert folded.spec.r == rank and folded.spec.alpha == 8.0 / 2 * rank
    for module in ("l.q", "l.v"):
        assert folded.tensors[f"{module}/A/0"].shape == (rank, IN)
        assert folded.tensors[f"{module}/B/0"].shape == (OUT, rank)
        wanted = update(model, module, WEIGHTS[module])
        assert torch.allclose(update(folded, module, [1.0]), wanted, atol=1e-5)


def test_modules_with_unlike_sides_are_cut_each_to_its_own() -> None:
    # Rank 4 cuts the 6 directions of (6 -> 5), and is above the smaller side of (6 -> 3), which stays exact.
    model = mixture()
    narrow = {name: t[:3] if name.startswith("l.v/B") else t for name, t in model.tensors.items()}
    folded = fold(ClientModel(model.spec, narrow), WEIGHTS, 4)
    assert [folded.tensors[f"l.{m}/{kind}/0"].shape[kind == "B"] for m in "qv" for kind in "AB"] == [4] * 4
    wanted = update(model, "l.v", WEIGHTS["l.v"])[:3]
    b, a = (folded.tensors[f"l.v/{kind}/0"].double() for kind in ("B", "A"))
    assert torch.allclose(folded.spec.alpha / folded.spec.r * b @ a, wanted, atol=1e-5)


def test_a_single_adapter_folds_to_itself() -> None:
    adapter = initial_adapter({"l.q": (IN, OUT)}, r=R, alpha=4, dropout=0, seed=0)
    folded = fold(adapter, {})
    assert folded.spec == adapter.spec
    assert all(torch.equal(folded.tensors[name], tensor) for name, tensor in adapter.tensors.items())


def test_one_expert_alone_is_that_expert_with_the_head() -> None:
    model = mixture()
    alone = expert_alone(model, 2)
    assert alone.spec.mixer == "none" and alone.spec.r == R and alone.spec.alpha == 8.0
    assert torch.equal(alone.tensors["l.q/A/0"], model.tensors["l.q/A/2"])
    assert torch.equal(alone.tensors["l.v/B/0"], model.tensors["l.v/B/2"])
    assert torch.equal(alone.tensors["head/classifier.weight"], model.tensors["head/classifier.weight"])
    assert len(alone.tensors) == 5


def test_padding_changes_no_product() -> None:
    # Whole numbers, whose products are exact: zeros are added, and no bit changes.
    model = mixture()
    tensors = {name: tensor.mul(8).round() for name, tensor in model.tensors.items()}
    wider = padded(tensors, 5)
    for expert in range(M):
        a, b = f"l.q/A/{expert}", f"l.q/B/{expert}"
        assert wider[a].shape == (5, IN) and wider[b].shape == (OUT, 5)
        assert torch.equal(wider[b] @ wider[a], tensors[b] @ tensors[a])
    for name in ("l.q/G", "head/classifier.weight"):
        assert torch.equal(wider[name], tensors[name])


def test_a_lower_rank_keeps_the_largest_directions_and_the_scale() -> None:
    # B A = diag(2, 3): at rank 1 diag(0, 3) is nearest. alpha / r = 8 / 2 stays 4.
    tensors = {"m/A/0": torch.diag(torch.tensor([2.0, 3.0])), "m/B/0": torch.eye(2)}
    cut = at_rank(ClientModel(AdapterSpec(2, 8.0, 0.0, ("m",)), tensors), 1)
    assert (cut.spec.r, cut.spec.alpha) == (1, 4.0)
    expected = torch.diag(torch.tensor([0.0, 3.0]))
    assert torch.allclose(cut.tensors["m/B/0"] @ cut.tensors["m/A/0"], expected, atol=1e-6)


def test_a_rank_up_and_down_again_gives_the_same_bits() -> None:
    model = mixture()
    again = at_rank(at_rank(model, 5), R)
    assert again.spec == model.spec
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in model.tensors.items())
    assert at_rank(model, R) is model


def test_candidates_are_cut_with_the_model() -> None:
    model = mixture()
    cut = at_rank(ClientModel(model.spec, model.tensors, candidates=(model.tensors,)), 1)
    assert all(torch.equal(cut.candidates[0][name], tensor) for name, tensor in cut.tensors.items())


def test_faults_name_the_module_and_the_rule() -> None:
    with pytest.raises(ValueError, match=r"l\.v: 3 weights are needed, one per expert, received 0"):
        fold(mixture(), {"l.q": WEIGHTS["l.q"]})
    for rank in (0, 7):
        with pytest.raises(ValueError, match=rf"rank must be in 1 \.\. 6 \(experts x r\), received {rank}"):
            fold(mixture(), WEIGHTS, rank)
    with pytest.raises(ValueError, match=r"expert must be in 0 \.\. 2, received 3"):
        expert_alone(mixture(), 3)


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


def test_the_best_pair_of_a_large_matrix_is_that_of_all_its_singular_values() -> None:
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(520, 530, generator=rng).double() * (torch.rand(520, 530, generator=rng) < 0.01)
    a, b = best_pair(matrix, 4)
    whole = truncate(torch.eye(530).double(), matrix, 4)
    torch.testing.assert_close(b @ a, whole[1] @ whole[0], atol=1e-9, rtol=0)
    torch.testing.assert_close(a.norm(dim=1), b.norm(dim=0))
    assert torch.equal(best_pair(matrix, 4)[0], a)
