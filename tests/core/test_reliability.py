"""What halves have in common, on cosines that are given and on planted factor models."""

import pytest
import torch
from planted_halves import MODULES, halves, uploads

from fedlease.core.reliability import COURSE, DEPENDENT, LEARNT, ROUGH, agreement, chance, from_cosines


def module(own: float, pair: float) -> torch.Tensor:
    """Cosines of the halves of two clients."""
    return torch.tensor([[1, own, pair, pair], [own, 1, pair, pair], [pair, pair, 1, own], [pair, pair, own, 1]])


def test_halves_of_a_client_and_of_two_are_means_over_modules_and_pairs_of_halves() -> None:
    other = module(0.5, 0.3)
    other[0, 2] = other[2, 0] = 0.7
    found = from_cosines(["a", "b"], [module(0.3, 0.1), other])
    # Of the second module (.7 + 3 x .3) / 4 = .4; with .1 of the first, .25.
    assert found.own.tolist() == pytest.approx([0.4**COURSE, 0.4**COURSE])
    assert found.cross.tolist() == [pytest.approx([0, 0.25]), pytest.approx([0.25, 0])]


def test_the_error_is_the_widened_jackknife_over_modules_beside_what_it_cannot_see() -> None:
    found = from_cosines(["a", "b"], [module(0.4, 0.3), module(0.6, 0.5)])
    # Without one of two modules the mean is .1 above or below: sqrt(1/2 x (.1^2 + .1^2)) = .1, times 1.7.
    assert found.cross_error[0, 1] == pytest.approx((0.17**2 + (ROUGH * 0.4) ** 2) ** 0.5)
    slope = COURSE * 0.5 ** (COURSE - 1)
    assert found.own_error[0] == pytest.approx(((slope * 0.17) ** 2 + DEPENDENT**2) ** 0.5)
    single = from_cosines(["a", "b"], [module(0.4, 0.3)])
    assert single.cross_error[0, 1] == pytest.approx((0.01**2 + (ROUGH * 0.3) ** 2) ** 0.5), "never quite exact"


def test_noise_alone_is_not_learnt() -> None:
    found = agreement({"a": halves("a", signal=0, noise=1, seed=1), "b": halves("b", signal=1, noise=0.5, seed=2)})
    assert found.learnt == [False, True]
    assert found.own[0] < LEARNT < found.own[1]


def test_the_error_of_rested_warmups_is_that_of_noise() -> None:
    """The mean over six modules of cosines between pairs of independent B, of 48 x 4 values each."""
    noise = chance(halves("a", noise=1, seed=0))
    assert noise == pytest.approx((6 * (1 / 192)) ** 0.5 / 6)
    draw = torch.Generator().manual_seed(0)
    b = torch.randn(4000, 2, len(MODULES), 192, generator=draw)
    cosines = torch.nn.functional.cosine_similarity(b[:, 0], b[:, 1], dim=-1).mean(-1)
    assert float(cosines.std()) == pytest.approx(noise, rel=0.04)
    found = from_cosines(["a", "b"], [module(0.4, 0.3), module(0.6, 0.5)], noise)
    assert found.own.tolist() == pytest.approx([0.5, 0.5]), "the cosine itself"
    assert found.own_error[0] == pytest.approx((noise**2 + (ROUGH * 0.5) ** 2) ** 0.5)
    assert found.cross_error[0, 1] == pytest.approx(((noise / 2) ** 2 + (ROUGH * 0.4) ** 2) ** 0.5)


def test_a_little_signal_in_much_noise_is_learnt_where_the_noise_is_known() -> None:
    given = {"a": halves("a", noise=3, seed=1, rested=True), "b": halves("b", signal=0, noise=1, seed=2, rested=True)}
    rested, other = agreement(given, noise=chance(given["a"])), agreement(given)
    assert rested.learnt == [True, False] and other.learnt == [False, False]
    assert rested.own[0] == pytest.approx(0.1, abs=2 * rested.own_error[0])


def test_a_matrix_without_values_is_refused_by_its_client() -> None:
    given = uploads({"a": 2}, noise=(0.5, 0.5))
    bad = {n: t * float("nan") if "/B/1" in n else t for n, t in given["a0"].items()}
    with pytest.raises(ValueError, match="NaN"):
        agreement({**given, "a0": bad}, "B")
