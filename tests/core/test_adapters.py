"""Where adapters, experts and routers start."""

import math

import pytest
import torch
from torch import Tensor

from fedlease.core.adapters import (
    MIRROR_SCALE,
    expert_tensors,
    initial_adapter,
    initial_router,
    renumber,
)
from fedlease.core.routing import expert_weights

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


class TestRouterThatStartsAtTheOwnExpert:
    """Tokens of a layer norm: mean 0 and variance 1 over 384 features, so |x| = sqrt 384."""

    FEATURES = 384

    def routed(self, num_experts: int, start: str = "own", shift: float = 0.0) -> tuple[Tensor, Tensor]:
        """G, and the weights of 2,000 tokens, whose mean over tokens is ``shift`` of their length."""
        draw = torch.Generator().manual_seed(1)
        x = torch.randn(2000, self.FEATURES, generator=draw) + shift * torch.randn(self.FEATURES, generator=draw)
        x = torch.nn.functional.layer_norm(x, (self.FEATURES,))
        single = initial_adapter({"m": (self.FEATURES, 8)}, r=2, alpha=4, dropout=0, seed=0)
        router = initial_router(single, num_experts, 0, start)["m/G"].requires_grad_()  # type: ignore[arg-type]
        return router, expert_weights(x @ router.T, 0)

    @pytest.mark.parametrize(("num_experts", "pairs"), [(2, 1), (3, 1), (4, 2), (5, 2), (8, 4)])
    def test_own_slots_are_mirrored_pairs_and_all_others_as_at_random(self, num_experts: int, pairs: int) -> None:
        own, _ = self.routed(num_experts)
        random, _ = self.routed(num_experts, "random")
        assert torch.equal(own[:pairs], MIRROR_SCALE * random[:pairs])
        assert torch.equal(own[pairs : 2 * pairs], -own[:pairs])
        assert torch.equal(own[2 * pairs :], random[2 * pairs :])

    def test_the_own_weight_is_the_one_derived(self) -> None:
        """M = 2 keeps the winner of the pair, |z| with z of deviation 16 / sqrt 3 = 9.24, and the foreign slot, near 0:
        1 - E[1 / (1 + e^|z|)] = 1 - sqrt(2 / pi) ln 2 / 9.24 = .940, for ln 2 is the integral and the density of z at
        0 counts alone."""
        _, weights = self.routed(2)
        assert weights[:, 0].mean().item() == pytest.approx(1 - math.sqrt(2 / math.pi) * math.log(2) / 9.24, abs=0.01)

    @pytest.mark.parametrize("shift", [0.0, 1.0])
    @pytest.mark.parametrize("num_experts", [2, 3, 4, 5, 8])
    def test_nearly_all_weight_is_on_the_own_expert_and_the_gradient_is_alive(
        self, num_experts: int, shift: float
    ) -> None:
        router, weights = self.routed(num_experts, shift=shift)
        at_random = self.routed(num_experts, "random", shift)[1]
        assert weights[:, 0].mean() > 0.85 > 0.8 > at_random[:, 0].mean()
        # A foreign expert is kept for almost every token; those that keep own slots only teach nothing.
        assert (weights[:, 1:].sum(1) > 0).double().mean() > 0.9
        weights[:, 0].mean().backward()  # type: ignore[no-untyped-call]
        assert router.grad is not None and router.grad[-1].norm() > 1e-4
