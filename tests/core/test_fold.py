"""A folded mixture computes the weighted sum of its experts; truncation is the best of its rank."""

import pytest
import torch

from fedlease.core.experts import initial_adapter
from fedlease.core.fold import expert_alone, fold
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


def test_faults_name_the_module_and_the_rule() -> None:
    with pytest.raises(ValueError, match=r"l\.v: 3 weights are needed, one per expert, received 0"):
        fold(mixture(), {"l.q": WEIGHTS["l.q"]})
    for rank in (0, 7):
        with pytest.raises(ValueError, match=rf"rank must be in 1 \.\. 6 \(experts x r\), received {rank}"):
            fold(mixture(), WEIGHTS, rank)
    with pytest.raises(ValueError, match=r"expert must be in 0 \.\. 2, received 3"):
        expert_alone(mixture(), 3)
