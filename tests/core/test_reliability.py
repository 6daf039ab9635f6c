"""Reliability and corrected similarity on planted factor models, whose signal and noise are known."""

import pytest
import torch
from planted_halves import halves, uploads

from fedlease.core.reliability import LEARNT, from_cosines, similarities


def test_corrected_similarity_is_exact_where_noise_is_known() -> None:
    # Two clients of one task with reliabilities .25 and .64, each module alike: raw cosine sqrt(.25 x .64) = .4.
    cosine = torch.tensor([[1, 0.25, 0.4, 0.4], [0.25, 1, 0.4, 0.4], [0.4, 0.4, 1, 0.64], [0.4, 0.4, 0.64, 1]]).double()
    found = from_cosines(["a", "b"], [cosine] * 3)
    assert found.reliability.tolist() == pytest.approx([0.25, 0.64])
    assert found.corrected.tolist() == [pytest.approx([1, 1]), pytest.approx([1, 1])]
    assert float(found.error.max()) == pytest.approx(0) and found.learnt == [True, True]


def test_half_the_signal_in_common_is_one_half_whatever_the_noise() -> None:
    # Raw cosines of .5 x sqrt(rel_i rel_j).
    x = 0.5 * (0.1 * 0.4) ** 0.5
    cosine = torch.tensor([[1, 0.1, x, x], [0.1, 1, x, x], [x, x, 1, 0.4], [x, x, 0.4, 1]]).double()
    assert float(from_cosines(["a", "b"], [cosine]).corrected[0, 1]) == pytest.approx(0.5)


def test_the_error_is_the_widened_jackknife_over_modules() -> None:
    def module(pair: float) -> torch.Tensor:
        return torch.tensor([[1, 0.5, pair, pair], [0.5, 1, pair, pair], [pair, pair, 1, 0.5], [pair, pair, 0.5, 1]])

    found = from_cosines(["a", "b"], [module(0.3).double(), module(0.5).double()])
    # Without one of two modules c is .6 or 1: sqrt(1/2 x (.2^2 + .2^2)) = .2, times 1.7.
    assert float(found.corrected[0, 1]) == pytest.approx(0.8)
    assert float(found.error[0, 1]) == pytest.approx(0.34)
    assert found.between([0], [1]) == (pytest.approx(0.8), pytest.approx(0.34))


@pytest.mark.parametrize("signal", ["B", "BA"])
def test_clients_of_one_task_stand_at_one_and_of_unrelated_ones_at_zero(signal: str) -> None:
    found = similarities(uploads({"a": 3, "b": 3}, noise=(0.5, 2.0)), signal)  # type: ignore[arg-type]
    same = torch.tensor([[c[0] == d[0] for c in found.clients] for d in found.clients])
    assert all(found.learnt)
    assert float((found.corrected[same] - 1).abs().max()) < 0.2
    assert float(found.corrected[~same].abs().max()) < 0.2


def test_scale_and_names_of_clients_change_nothing() -> None:
    given = uploads({"a": 2, "b": 2}, noise=(0.5, 1.0))
    found = similarities(given)
    scaled = {
        client: {n: t * (7 if "/B/" in n else 1) for n, t in tensors.items()} for client, tensors in given.items()
    }
    assert torch.allclose(similarities(scaled).corrected, found.corrected, atol=1e-6)
    renamed = {f"{9 - place}": given[client] for place, client in enumerate(sorted(given))}
    assert torch.allclose(similarities(renamed).corrected.flip(0, 1), found.corrected)


def test_noise_alone_is_not_learnt() -> None:
    found = similarities({"a": halves("a", signal=0, noise=1, seed=1), "b": halves("b", signal=1, noise=0.5, seed=2)})
    assert found.learnt == [False, True]
    assert float(found.reliability[0]) < LEARNT < float(found.reliability[1])


def test_a_matrix_without_values_is_refused_by_its_client() -> None:
    given = uploads({"a": 2}, noise=(0.5, 0.5))
    bad = {n: t * float("nan") if "/B/1" in n else t for n, t in given["a0"].items()}
    with pytest.raises(ValueError, match="NaN"):
        similarities({**given, "a0": bad}, "B")
