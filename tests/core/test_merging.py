"""Groups by corrected similarity: M follows from what the data say, one task is one group."""

import pytest
import torch
from planted_halves import halves, uploads

from fedlease.core.merging import compare, merge
from fedlease.core.reliability import Similarities, similarities


def partition(groups: dict[str, int]) -> set[frozenset[str]]:
    return {frozenset(c for c in groups if groups[c] == number) for number in set(groups.values())}


def by_task(clients: list[str]) -> set[frozenset[str]]:
    return {frozenset(c for c in clients if c[0] == task) for task in {c[0] for c in clients}}


def given(corrected: list[list[float]], error: float = 0.0) -> Similarities:
    """Three modules that spread each similarity so that its error is the given one."""
    c = torch.tensor(corrected).double()
    spread = error / 1.7 * (3 / 2 / 2) ** 0.5
    left_out = torch.stack([c - spread, c, c + spread])
    count = len(c)
    names = [f"c{number}" for number in range(count)]
    return Similarities(names, torch.full((count,), 0.5), torch.zeros(count), c, torch.full_like(c, error), left_out)


@pytest.mark.parametrize("count", [4, 8, 16, 64])
def test_one_task_with_unequal_noise_is_one_group(count: int) -> None:
    groups = merge(similarities(uploads({"a": count}, noise=(0.3, 2.0))))
    assert len(groups) == count and len(set(groups.values())) == 1


@pytest.mark.parametrize("tasks", [{"a": 2, "b": 2}, {"a": 3, "b": 1, "c": 4}, {t: 8 for t in "abcdefgh"}])
def test_planted_tasks_with_unequal_noise_are_the_groups(tasks: dict[str, int]) -> None:
    groups = merge(similarities(uploads(tasks, noise=(0.3, 2.0))))
    assert partition(groups) == by_task(sorted(groups)) and len(groups) == sum(tasks.values())


def test_who_has_not_learnt_is_in_no_group() -> None:
    clients = uploads({"a": 2, "b": 2}, noise=(0.5, 1.0))
    clients["a9"] = halves("a", signal=0.0, noise=1.0, seed=77)
    assert partition(merge(similarities(clients))) == {frozenset({"a0", "a1"}), frozenset({"b0", "b1"})}
    assert merge(similarities({c: halves("a", signal=0.0, noise=1.0, seed=s) for s, c in enumerate("xyz")})) == {}
    assert merge(similarities({"x": halves("a", noise=0.5, seed=1)})).keys() == {"x"}


def test_a_similarity_within_the_cut_of_one_is_the_same_and_below_by_more_than_its_error_is_not() -> None:
    assert compare(0.71, 0.0, 0.3) == "same"
    assert compare(0.69, 0.0, 0.3) == "different"
    assert compare(0.69, 0.2, 0.3) == "unknown"
    assert compare(0.49, 9.0, 0.3) == "different", "half way is the end, however large the error"


def test_two_groups_merge_by_the_mean_over_their_pairs_and_its_error() -> None:
    # c0 with c1 is sure, c2 stands at .6 from both: apart when that is exact, together when two errors reach 1.
    c = [[1, 0.98, 0.6], [0.98, 1, 0.6], [0.6, 0.6, 1]]
    assert partition(merge(given(c))) == {frozenset({"c0", "c1"}), frozenset({"c2"})}
    assert partition(merge(given(c, error=0.25))) == {frozenset({"c0", "c1", "c2"})}


def test_similarities_above_one_and_below_zero_are_taken_as_they_are() -> None:
    c = [[1, 1.4, -0.8], [1.4, 1, -0.3], [-0.8, -0.3, 1]]
    assert partition(merge(given(c))) == {frozenset({"c0", "c1"}), frozenset({"c2"})}


@pytest.mark.parametrize("cut", [0.0, 1.0, -0.1, float("nan")])
def test_a_cut_out_of_range_is_refused(cut: float) -> None:
    with pytest.raises(ValueError, match="cut"):
        merge(given([[1.0]]), cut)
