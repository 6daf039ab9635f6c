"""The laws of sketches: they are linear in the unit matrix, keep its cosines on average, and show little more."""

import math
from dataclasses import replace

import pytest
import torch

from fedlease.core.adapters import a_matrices, b_matrices
from fedlease.core.distances import product_cosines
from fedlease.core.sketch import Sketch, is_sketch
from fedlease.core.types import TensorName, Tensors

SKETCH = Sketch(32, "B", 5)
NAMES = ("q/B/0", "v/B/0")


def adapter(seed: int, like: Tensors | None = None) -> dict[str, torch.Tensor]:
    """A and B of two modules, half of them those of another adapter where there is one."""
    rng = torch.Generator().manual_seed(seed)
    shapes = {"q/A/0": (4, 20), "q/B/0": (30, 4), "v/A/0": (4, 20), "v/B/0": (24, 4)}
    return {n: torch.randn(shape, generator=rng) + (0 if like is None else like[n]) for n, shape in shapes.items()}


@pytest.mark.parametrize("signal", ["B", "A", "BA"])
def test_inner_products_have_the_cosine_as_mean_and_the_deviation_that_is_stated(signal: str) -> None:
    one = adapter(0)
    other = adapter(1, one)
    b, a = ({c: kind(t) for c, t in zip("xy", (one, other), strict=True)} for kind in (b_matrices, a_matrices))
    ones = {c: {m: torch.eye(4) for m in modules} for c, modules in b.items()}
    pairs = {"BA": (b, a), "B": (b, ones), "A": ({c: {m: torch.eye(4) for m in ms} for c, ms in a.items()}, a)}
    expected = [float(found[0, 1]) for found in product_cosines(*pairs[signal])]
    for name, cosine in zip(NAMES, expected, strict=True):
        found = []
        for seed in range(200):
            sketch = Sketch(32, signal, seed)  # type: ignore[arg-type]
            found.append(float((sketch.of(one)[name] * sketch.of(other)[name]).sum()))
        drawn = torch.tensor(found)
        # 200 draws know the mean to a fourteenth of the deviation.
        assert abs(float(drawn.mean()) - cosine) < 4 * math.sqrt(2 / 32) / 14
        assert float(drawn.std()) < 1.2 * math.sqrt((1 + cosine**2) / 32)


def test_every_value_is_in_one_sum_with_a_sign() -> None:
    """What is drawn is read off unit vectors: the sketch of each is +1 or -1 in one place."""
    b = torch.eye(30 * 4).view(120, 30, 4)
    columns = [SKETCH.of({"q/A/0": torch.ones(4, 20), "q/B/0": one})["q/B/0"].flatten() for one in b]
    drawn = torch.stack(columns)  # (120, 32)
    assert ((drawn.abs() == 1).sum(1) == 1).all() and (drawn.abs().sum(1) == 1).all()
    assert (drawn > 0).any() and (drawn < 0).any()
    whole = adapter(3)
    unit = whole["q/B/0"].flatten() / whole["q/B/0"].norm()
    assert torch.allclose(SKETCH.of(whole)["q/B/0"].flatten(), unit @ drawn, atol=1e-6)
    # Least squares gives back one number per sum: 32 of 120 of the squared length, on average.
    spread = drawn / drawn.abs().sum(0).clamp(min=1)
    shares = []
    for seed in range(100):
        b_unit = torch.randn(120, generator=torch.Generator().manual_seed(seed))
        b_unit /= b_unit.norm()
        shares.append(1 - float((b_unit - spread @ (b_unit @ drawn)).square().sum()))
    filled = int((drawn.abs().sum(0) > 0).sum())
    assert sum(shares) / 100 == pytest.approx(filled / 120, abs=0.03)


def test_the_length_and_nothing_else_of_the_scale_is_lost() -> None:
    one = adapter(0)
    scaled = {name: tensor * 1e-12 for name, tensor in one.items()}
    for signal in ("B", "A", "BA"):
        sketch = replace(SKETCH, signal=signal)  # type: ignore[arg-type]
        assert all(torch.allclose(t, sketch.of(scaled)[name], atol=1e-6) for name, t in sketch.of(one).items())
    zero = {name: torch.zeros_like(tensor) for name, tensor in one.items()}
    assert not any(bool(tensor.any()) for tensor in SKETCH.of(zero).values())


def test_all_clients_and_halves_draw_alike_modules_do_not_and_another_seed_does_not() -> None:
    one = adapter(0)
    halves = {**one, **{str(TensorName.parse(n)._replace(expert=1)): t for n, t in one.items()}}
    found = SKETCH.of(halves)
    assert found.keys() == {"q/B/0", "q/B/1", "v/B/0", "v/B/1"} and is_sketch(found) and not is_sketch(one)
    assert found["q/B/0"].equal(found["q/B/1"])
    same = {"q/A/0": one["q/A/0"], "q/B/0": one["q/B/0"], "v/A/0": one["q/A/0"], "v/B/0": one["q/B/0"]}
    assert not SKETCH.of(same)["q/B/0"].equal(SKETCH.of(same)["v/B/0"])
    assert not replace(SKETCH, seed=6).of(one)["q/B/0"].equal(SKETCH.of(one)["q/B/0"])


def test_a_large_product_is_sketched_block_by_block_to_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    sketch, one = replace(SKETCH, signal="BA"), adapter(0)
    whole = sketch.of(one)
    monkeypatch.setattr("fedlease.core.sketch.DRAWN", 60)  # three of thirty rows at a time
    assert all(torch.allclose(tensor, sketch.of(one)[name], atol=1e-6) for name, tensor in whole.items())
