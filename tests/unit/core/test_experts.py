"""Where adapters, experts and routers start."""

import math

import pytest
import torch
from torch import Tensor

from fedlease.core.experts import expert_tensors, initial_adapter, initial_router, renumber, seed_experts
from fedlease.core.types import Allocation

SHAPES = {"layer.1.v": (6, 4), "layer.0.q": (100, 8)}


def adapter(seed: int = 0) -> dict[str, Tensor]:
    return dict(initial_adapter(SHAPES, r=2, alpha=16, dropout=0.1, seed=seed).tensors)


class TestInitialAdapter:
    def test_names_shapes_and_spec(self) -> None:
        model = initial_adapter(SHAPES, r=2, alpha=16, dropout=0.1, seed=0)
        assert {name: tuple(t.shape) for name, t in model.tensors.items()} == {
            "layer.0.q/A/0": (2, 100),
            "layer.0.q/B/0": (8, 2),
            "layer.1.v/A/0": (2, 6),
            "layer.1.v/B/0": (4, 2),
        }
        assert model.spec.target_modules == ("layer.0.q", "layer.1.v")
        assert (model.spec.r, model.spec.alpha, model.spec.dropout) == (2, 16, 0.1)
        assert (model.spec.num_experts, model.spec.mixer) == (1, "none")

    def test_b_is_zero_and_a_is_kaiming_uniform(self) -> None:
        # a = sqrt 5: uniform within +- sqrt(6 / ((1 + 5) fan_in)) = 1 / sqrt(fan_in); variance 1 / (3 fan_in).
        model = initial_adapter({"q": (400, 8)}, r=64, alpha=1, dropout=0, seed=0)
        a = model.tensors["q/A/0"]
        assert torch.equal(model.tensors["q/B/0"], torch.zeros(8, 64))
        assert 0.99 / 20 < a.abs().max() <= 1 / 20
        assert a.var().item() == pytest.approx(1 / 1200, rel=0.03)
        assert abs(a.mean().item()) < 4 * math.sqrt(1 / 1200 / a.numel())

    def test_is_a_function_of_the_seed_and_of_nothing_else(self) -> None:
        first = adapter()
        torch.manual_seed(99)
        assert all(torch.equal(first[name], t) for name, t in adapter().items())
        assert not torch.equal(first["layer.0.q/A/0"], adapter(seed=1)["layer.0.q/A/0"])

    def test_a_module_starts_the_same_whatever_others_are_adapted(self) -> None:
        alone = initial_adapter({"layer.1.v": (6, 4)}, r=2, alpha=16, dropout=0, seed=0)
        assert torch.equal(alone.tensors["layer.1.v/A/0"], adapter()["layer.1.v/A/0"])

    def test_modules_of_one_shape_start_differently(self) -> None:
        model = initial_adapter({"q": (6, 4), "v": (6, 4)}, r=2, alpha=16, dropout=0, seed=0)
        assert not torch.equal(model.tensors["q/A/0"], model.tensors["v/A/0"])

    def test_leaves_the_global_generator_alone(self) -> None:
        before = torch.get_rng_state()
        adapter()
        assert torch.equal(before, torch.get_rng_state())


class TestInitialRouter:
    @pytest.mark.parametrize("num_experts", [2, 4, 8])
    def test_shapes_and_range(self, num_experts: int) -> None:
        model = initial_adapter(SHAPES, r=2, alpha=16, dropout=0, seed=0)
        router = initial_router(model, num_experts, seed=0)
        slots = 2 * num_experts - 1
        assert {name: tuple(t.shape) for name, t in router.items()} == {
            "layer.0.q/G": (slots, 100),
            "layer.1.v/G": (slots, 6),
        }
        assert 0 < router["layer.0.q/G"].abs().max() <= 1 / 10

    def test_no_row_repeats_a(self) -> None:
        # Router and A are drawn from generators of their own.
        model = initial_adapter({"q": (6, 4)}, r=3, alpha=1, dropout=0, seed=0)
        assert not torch.equal(initial_router(model, 2, seed=0)["q/G"], model.tensors["q/A/0"])


class TestSeedExperts:
    allocation = Allocation(
        num_experts=2,
        assignment={"a": 0, "b": 1, "c": 0},
        silhouettes={2: 0.5},
        distances=torch.zeros(3, 3, dtype=torch.float64),
        clients=["a", "b", "c"],
    )
    warmups = {  # noqa: RUF012
        client: {"q/A/0": torch.full((1, 2), value), "q/B/0": torch.full((2, 1), -value)}
        for client, value in {"a": 1.0, "b": 10.0, "c": 4.0}.items()
    }

    def test_mean_by_rows(self) -> None:
        # Expert 0: (100 x 1 + 300 x 4) / 400 = 3.25. Expert 1 has b alone.
        first, second = seed_experts(self.allocation, self.warmups, {"a": 100, "b": 7, "c": 300})
        assert first["q/A/0"].tolist() == [[3.25, 3.25]]
        assert first["q/B/0"].tolist() == [[-3.25], [-3.25]]
        assert second["q/A/0"].tolist() == [[10, 10]]

    def test_plain_mean(self) -> None:
        first, _ = seed_experts(self.allocation, self.warmups, {"a": 100, "b": 7, "c": 300}, weighting="uniform")
        assert first["q/A/0"].tolist() == [[2.5, 2.5]]


class TestNames:
    def test_renumber_changes_a_and_b_only(self) -> None:
        tensors = {"m.1/A/0": torch.ones(1), "m.1/B/0": torch.ones(1), "m.1/G": torch.ones(1), "head/w": torch.ones(1)}
        assert set(renumber(tensors, 12)) == {"m.1/A/12", "m.1/B/12", "m.1/G", "head/w"}

    def test_expert_10_is_not_expert_1(self) -> None:
        # The authors' code reads one digit of the expert and replaces every 0 of a layer number.
        ten = renumber({"layer.10.q/A/0": torch.ones(1)}, 10)
        assert set(ten) == {"layer.10.q/A/10"}
        both = {**ten, **renumber({"layer.10.q/A/0": torch.zeros(1)}, 1)}
        assert set(expert_tensors(both, 1)) == {"layer.10.q/A/1"}
        assert set(expert_tensors(both, 10)) == {"layer.10.q/A/10"}
        assert expert_tensors(both, 0) == {}
