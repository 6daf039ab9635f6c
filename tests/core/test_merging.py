"""Groups by evidence: M follows from what halves have in common, one task is one group."""

import numpy as np
import pytest
import torch
from planted_halves import halves, uploads

from fedlease.core import merging
from fedlease.core.merging import Merged, log_odds, merge
from fedlease.core.merging_fit import Fit, fit
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
    found = fit(given((s * s).tolist(), np.outer(s, s).tolist()), [0, 0, 0])
    assert found.s == pytest.approx(s, abs=1e-4) and found.misfit == pytest.approx(0, abs=1e-4) and found.common == 0


def test_the_misfit_of_one_group_is_the_least_of_its_squares() -> None:
    # Least of 2 (.25 - x)^2 + (.10 - x)^2 over x = s^2: x = .2, .05^2 x 2 + .1^2 = .015, over 2 x .01^2.
    found = fit(given([0.25, 0.25], [[0, 0.10], [0.10, 0]]), [0, 0])
    assert found.s == pytest.approx([0.2**0.5] * 2, rel=1e-3) and found.misfit == pytest.approx(75, rel=1e-3)


def test_two_groups_that_have_nothing_in_common_miss_nothing() -> None:
    # What is left is the density of a wider error: v / e^2 = 1 + (.05 x .25 / .01)^2 = 2.5625.
    found = fit(given([0.25, 0.25], [[0, 0.0], [0.0, 0]]), [0, 1])
    assert found.misfit == pytest.approx(np.log(2.5625) / 2, rel=1e-6)
    assert found.s == pytest.approx([0.5, 0.5]) and found.common == 0


def test_what_all_tasks_have_in_common_is_found_and_merges_nobody() -> None:
    # 15 pairs of .2 x .64, each known with .64^2 / (.01^2 + (.05 x .64)^2) = 364 for g; the prior has 1 / .05^2.
    own, count = 0.64, 6
    found = given([own] * count, ((1 - np.eye(count)) * 0.2 * own).tolist())
    assert fit(found, range(count)).common == pytest.approx(0.2 * 15 * 364 / (15 * 364 + 400), rel=0.03)
    assert len(partition(merge(found))) == count


def test_pairs_that_each_say_little_say_enough_together() -> None:
    def clients(count: int) -> Agreement:
        cross = (1 - np.eye(count)) * 0.03
        return Agreement(
            [f"c{i}" for i in range(count)], np.full(count, 0.04), np.full(count, 0.1), cross, 0 * cross + 0.03
        )

    assert len(partition(merge(clients(2)))) == 2 and len(partition(merge(clients(8)))) == 1


def test_log_odds_of_a_pair_are_those_of_two_normal_densities() -> None:
    # s = .5 each: .25 with one task, at most .1 x .25 with two, whose variance is .05^2 + (.05 x .25)^2.
    found, fitted = given([0.25, 0.25], [[0, 0.2], [0.2, 0]], error=0.05), Fit(0.0, np.array([0.5, 0.5]), 0.1)
    variance = 0.05**2 + 0.0125**2
    expected = 0.175**2 / 2 / variance - 0.05**2 / 2 / 0.05**2 + np.log(variance / 0.05**2) / 2
    assert log_odds(found, fitted) == pytest.approx(np.array([[0, expected], [expected, 0]]))


def test_the_model_is_fitted_about_as_often_for_many_clients_as_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(merging, "fit", lambda *given: calls.append(0) or fit(*given))
    count = 120
    same = np.arange(count)[:, None] % 6 == np.arange(count) % 6
    merged = merge(given([0.5] * count, (same & ~np.eye(count, dtype=bool)) * 0.5))
    # One fit for each of the last 33 groupings, and one whenever 3 % of the groups are gone: log(33 / 120) / log(.97).
    assert len(partition(merged)) == 6 and len(calls) < 33 + 43 + 5


def test_many_clients_are_grouped_as_few_are() -> None:
    """Of thousands of pairs many exceed what two tasks have in common by chance, which makes it no more."""
    drawn, count = np.random.default_rng(0), 120
    task = np.arange(count) % 8
    s = np.sqrt(drawn.uniform(0.05, 0.3, count))
    noise = drawn.normal(0, 0.02, (count, count))
    cross = np.where(task[:, None] == task, 1.0, 0.1) * np.outer(s, s) + (noise + noise.T) / 2
    np.fill_diagonal(cross, 0)
    own = s * s + drawn.normal(0, 0.06, count)
    found = merge(
        Agreement([f"c{i:03}" for i in range(count)], own, np.full(count, 0.09), cross, np.full((count, count), 0.02))
    )
    assert partition(found) == {frozenset(f"c{i:03}" for i in range(k, count, 8)) for k in range(8)}


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


@pytest.mark.parametrize(("beside_b", "own", "joins"), [(0.02, 0.09, True), (0.05, 0.09, False), (0.02, 0.5, False)])
def test_an_unsure_client_joins_the_group_that_stands_out(beside_b: float, own: float, joins: bool) -> None:
    """Its own halves overstate what it has learnt, so that it stands alone by them; one that has learnt stays so."""
    clients = ["a0", "a1", "a2", "b0", "b1", "b2", "x"]
    task = np.array([0, 0, 0, 1, 1, 1, 2])
    cross = np.where(task[:, None] == task, 0.5, 0.02)
    cross[6, :3] = cross[:3, 6] = 0.06
    cross[6, 3:6] = cross[3:6, 6] = beside_b
    np.fill_diagonal(cross, 0)
    each = np.array([0.5] * 6 + [own])
    found = merge(Agreement(clients, each, np.full(7, 0.08), cross, np.full((7, 7), 0.01)))
    assert found.groups["a0"] == found.groups["a1"] == found.groups["a2"] != found.groups["b0"]
    assert (found.groups["x"] == found.groups["a0"]) == joins
    assert found.unsure == (("x",) if not joins and own < 0.1 else ())
