"""Groups by evidence: M follows from what halves have in common, one task is one group."""

import numpy as np
import pytest
import torch
from planted_halves import halves, uploads

from fedlease.core.merging import Merged, fit, merge
from fedlease.core.reliability import Agreement, agreement
from fedlease.core.types import Tensors


def partition(found: Merged) -> set[frozenset[str]]:
    numbers = set(found.groups.values())
    return {frozenset(c for c in found.groups if found.groups[c] == number) for number in numbers}


def by_task(clients: dict[str, dict[str, torch.Tensor]]) -> set[frozenset[str]]:
    return {frozenset(c for c in clients if c[0] == task) for task in {c[0] for c in clients}}


def given(own: list[float], cross: list[list[float]], error: float = 0.01) -> Agreement:
    """Clients c0, c1, ... with equal errors."""
    count = len(own)
    names = [f"c{number}" for number in range(count)]
    return Agreement(names, np.array(own), np.full(count, error), np.array(cross), np.full((count, count), error))


@pytest.mark.parametrize("count", [4, 8, 24])
def test_one_task_with_unequal_noise_is_one_group(count: int) -> None:
    found = merge(agreement(uploads({"a": count}, noise=(0.3, 2.0))))
    assert len(found.groups) == count and len(partition(found)) == 1 and not found.unsure


@pytest.mark.parametrize("tasks", [{"a": 2, "b": 2}, {"a": 3, "b": 1, "c": 4}, {t: 4 for t in "abcdef"}])
def test_planted_tasks_with_unequal_noise_are_the_groups(tasks: dict[str, int]) -> None:
    clients = uploads(tasks, noise=(0.3, 2.0))
    found = merge(agreement(clients))
    assert partition(found) == by_task(clients) and not found.unsure


def test_a_client_whose_own_halves_say_nothing_is_known_by_what_it_has_in_common_with_others() -> None:
    # Reliability .04: its own halves show nothing beyond their error, its cosines with sure ones are about .15.
    clients = uploads({"a": 3, "b": 3}, noise=(0.5, 0.5))
    clients["a9"] = halves("a", noise=4.9, seed=77)
    found = agreement(clients)
    assert not found.learnt[found.clients.index("a9")]
    merged = merge(found)
    assert partition(merged) == by_task(clients) and not merged.unsure
    assert merged.reliability[found.clients.index("a9")] < 0.1


def test_who_has_learnt_nothing_is_unsure_and_alone() -> None:
    clients = uploads({"a": 2, "b": 2}, noise=(0.5, 1.0))
    clients["a9"] = halves("a", signal=0.0, noise=1.0, seed=77)
    found = merge(agreement(clients))
    assert partition(found) == {frozenset({"a0", "a1"}), frozenset({"b0", "b1"}), frozenset({"a9"})}
    assert found.unsure == ("a9",) and min(found.evidence["a0"], found.evidence["b0"]) > 2
    nothing = merge(agreement({c: halves("a", signal=0.0, noise=1.0, seed=s) for s, c in enumerate("xyz")}))
    assert nothing.unsure == ("x", "y", "z") and len(partition(nothing)) == 3


def test_one_client_is_a_group_of_which_nothing_is_asked() -> None:
    found = merge(agreement({"x": halves("a", noise=0.5, seed=1)}))
    assert found.groups.keys() == {"x"} and not found.unsure and found.evidence == {"x": float("inf")}


def test_clients_of_two_tasks_are_apart_for_sure_and_not_unsure() -> None:
    found = merge(agreement({c: halves(c, noise=0.5, seed=s) for s, c in enumerate("xyz")}))
    assert len(partition(found)) == 3 and not found.unsure and min(found.evidence.values()) > 2


def test_a_fit_within_one_group_is_exact_where_one_factor_explains_all() -> None:
    s = np.array([0.9, 0.5, 0.2])
    misfit, found = fit(given((s * s).tolist(), np.outer(s, s).tolist()), [0, 0, 0], 0.4)
    assert found == pytest.approx(s, abs=1e-4) and misfit == pytest.approx(0, abs=1e-4)


def test_two_groups_explain_what_they_have_in_common_up_to_what_unlike_tasks_may() -> None:
    # Reliability .25 each: .10 in common is .4 of it. Apart that is no misfit, as one task .15 / .01 is one of 225.
    found = given([0.25, 0.25], [[0, 0.10], [0.10, 0]])
    apart, s = fit(found, [0, 1], 0.4)
    assert apart == pytest.approx(0, abs=1e-6) and s == pytest.approx([0.5, 0.5])
    together, s = fit(found, [0, 0], 0.4)
    # Least squares of 2 (.25 - x)^2 + (.10 - x)^2 over x = s^2: x = .2, .05^2 x 2 + .1^2 = .015, over .01^2.
    assert s == pytest.approx([0.2**0.5] * 2, rel=1e-3) and together == pytest.approx(150, rel=1e-3)


def test_the_line_between_one_task_and_two_is_the_cut() -> None:
    for similarity, groups in ((0.76, 1), (0.64, 2)):
        x = similarity * 0.25
        assert len(partition(merge(given([0.25, 0.25], [[0, x], [x, 0]]), cut=0.3))) == groups
    x = 0.64 * 0.25
    assert len(partition(merge(given([0.25, 0.25], [[0, x], [x, 0]]), cut=0.45))) == 1


def test_corrected_similarity_is_spearmans_with_its_error() -> None:
    # Cosine .4 with reliabilities .25 and .64: .4 / sqrt(.16) = 1, its error .01 / .4.
    found = merge(given([0.25, 0.64], [[0, 0.4], [0.4, 0]]))
    assert found.corrected == pytest.approx(np.ones((2, 2)), abs=1e-3)
    assert found.error == pytest.approx(np.array([[0, 0.025], [0.025, 0]]), abs=1e-4)


@pytest.mark.parametrize("signal", ["B", "BA"])
def test_clients_of_one_task_stand_at_one_and_of_unrelated_ones_at_zero(signal: str) -> None:
    clients = uploads({"a": 3, "b": 3}, noise=(0.5, 2.0))
    found = merge(agreement(clients, signal))  # type: ignore[arg-type]
    same = np.array([[c[0] == d[0] for c in sorted(clients)] for d in sorted(clients)])
    assert np.abs(found.corrected[same] - 1).max() < 0.2 and np.abs(found.corrected[~same]).max() < 0.2


def test_scale_and_names_of_clients_change_nothing() -> None:
    clients: dict[str, Tensors] = {**uploads({"a": 2, "b": 2}, noise=(0.5, 1.0))}
    found = merge(agreement(clients))
    scaled = {
        client: {n: t * (7 if "/B/" in n else 1) for n, t in tensors.items()} for client, tensors in clients.items()
    }
    assert merge(agreement(scaled)).corrected == pytest.approx(found.corrected, abs=1e-5)
    renamed = merge(agreement({f"{9 - place}": clients[client] for place, client in enumerate(sorted(clients))}))
    assert np.flip(renamed.corrected) == pytest.approx(found.corrected, abs=1e-5)


@pytest.mark.parametrize("cut", [0.0, 0.6, -0.1, float("nan")])
def test_a_cut_out_of_range_is_refused(cut: float) -> None:
    with pytest.raises(ValueError, match="cut"):
        merge(given([0.5], [[0.0]]), cut)
