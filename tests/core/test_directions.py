"""A client that comes late, on the corrected scale: planted factor models, in which the similarity is known."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from planted_halves import halves, uploads

from fedlease.core.codec import dumps, loads
from fedlease.core.directions import GroupDirections, group_directions
from fedlease.core.types import ClientId, Tensors
from fedlease.methods.fedlease_similarity import BySimilarity


def found(known: dict[ClientId, Tensors], signal: Any = "BA", columns: int | None = None) -> GroupDirections:
    whole = {client: {n: t for n, t in each.items() if n.endswith("/0")} for client, each in known.items()}
    return group_directions(known, BySimilarity(known, signal)(whole, 0), signal, columns)


@pytest.fixture(scope="module")
def directions() -> GroupDirections:
    """Five clients of task a, four of b, one of c, with reliabilities from 1 / 1.25 to 1 / 3.25."""
    return found(uploads({"a": 5, "b": 4, "c": 1}, noise=(0.5, 1.5)))


@pytest.mark.parametrize("noise", [0.5, 1.0, 1.5])
@pytest.mark.parametrize(("task", "expert"), [("a", 0), ("b", 1), ("c", 2)])
def test_a_client_of_a_known_task_stands_at_1_whatever_its_noise(
    directions: GroupDirections, task: str, expert: int, noise: float
) -> None:
    placement = directions.place(halves(task, noise=noise, seed=99))
    assert (placement.expert, placement.unlike, placement.learnt) == (expert, False, True)
    assert placement.reliability == pytest.approx(1 / (1 + noise**2), abs=0.12)
    for other, (similarity, error) in enumerate(zip(placement.similarities, placement.errors, strict=True)):
        assert similarity is not None and error is not None
        assert similarity == pytest.approx(float(other == expert), abs=max(0.15, 3 * error))
    assert placement.distances[expert] == pytest.approx(max(0.0, 1 - placement.similarities[expert]))
    assert str(placement).startswith(f"expert {expert + 1}, same task: ") and " ± 0." in str(placement)
    loose = replace(placement, errors=(0.6,) * 3)
    assert loose.likeness.startswith("most likely the same task: ") and loose.likeness.endswith(" ± 0.60")


def test_a_client_with_much_noise_is_placed_where_a_and_heads_rested() -> None:
    known = uploads({"a": 5, "b": 4}, noise=(2.0, 3.0), rested=True)
    whole = {client: {n: t for n, t in each.items() if n.endswith("/0")} for client, each in known.items()}
    directions = group_directions(known, BySimilarity(known, "BA", rested=True)(whole, 0), "BA", rested=True)
    assert loads(dumps(directions)).rested
    for task, expert in (("a", 0), ("b", 1)):
        placement = directions.place(halves(task, noise=3, seed=99, rested=True))
        assert (placement.expert, placement.unlike, placement.learnt) == (expert, False, True)
    assert directions.place(halves("d", noise=3, seed=99, rested=True)).unlike


def test_a_client_of_another_task_is_unlike_every_expert(directions: GroupDirections) -> None:
    placement = directions.place(halves("d", noise=0.7, seed=99))
    assert placement.unlike and placement.learnt
    assert max(similarity or 0 for similarity in placement.similarities) < 0.2
    assert placement.why_out.startswith("it is unlike every expert; the nearest is expert ")
    assert "another task" in placement.why_out


def test_a_client_that_has_learnt_nothing_is_told_to_be_unknown(directions: GroupDirections) -> None:
    placement = directions.place(halves("a", signal=0.0, noise=1.0, seed=99))
    assert placement.unlike and not placement.learnt
    assert placement.why_out.startswith("it has not learnt enough to tell who has its task (reliability 0.0")


@pytest.mark.parametrize(("noise", "known"), [(0.5, True), (1.0, True), (30.0, False)])
def test_a_single_adapter_is_placed_where_it_has_more_in_common_than_unlike_tasks_may(
    noise: float, known: bool, directions: GroupDirections
) -> None:
    one = {name: tensor for name, tensor in halves("b", noise=noise, seed=99).items() if name.endswith("/0")}
    placement = directions.place(one)
    assert (not placement.unlike, placement.learnt) == (known, known)
    assert placement.expert == 1 or not known
    other = {name: tensor for name, tensor in halves("d", noise=noise, seed=99).items() if name.endswith("/0")}
    assert directions.place(other).unlike


def test_where_nobody_has_learnt_anything_everyone_is_like_all_others() -> None:
    nobody = found({f"a{n}": halves("a", signal=0.0, noise=1.0, seed=n) for n in range(3)})
    assert (nobody.num_experts, nobody.experts) == (1, ())
    assert not nobody.place(halves("a", noise=0.5, seed=99)).unlike


def test_b_alone_places_by_the_same_rule() -> None:
    known = uploads({"a": 3, "b": 3}, noise=(0.5, 1.0))
    placement = found(known, "B").place(halves("b", noise=0.8, seed=99))
    assert placement.expert == 1 and not placement.unlike
    assert placement.similarities[1] == pytest.approx(1, abs=0.15)


def test_it_is_the_mean_over_halves_that_the_formula_says() -> None:
    """One group of two clients of rank 4, so that 2 x 4 of 16 directions are kept: what is lost is noise."""
    known = uploads({"a": 2}, noise=(0.5, 0.5))
    made = found(known)
    module = sorted(made.b)[0]
    s = math.sqrt(1 / 1.25)
    sums = torch.zeros(48, 48, dtype=torch.float64)
    for each in known.values():
        for half in (0, 1):
            product = each[f"{module}/B/{half}"].double() @ each[f"{module}/A/0"].double()
            sums += product / product.norm()
    expected = sums / (4 * s)  # all have about one s: s sum u / (2 x 2 s^2)
    kept = made.b[module][0].double() @ made.a[module][0].double()
    assert float((kept - expected).norm() / expected.norm()) < 0.3
    assert float((kept * expected).sum() / kept.norm() / expected.norm()) > 0.95


def test_experts_are_numbered_anew_and_the_state_is_written_and_read(directions: GroupDirections) -> None:
    fewer = directions.chosen([2, 0])
    newcomer = halves("a", noise=0.5, seed=99)
    assert fewer.place(newcomer).expert == 1 and fewer.num_experts == 2
    again = loads(dumps(directions))
    assert again.place(newcomer) == directions.place(newcomer)


def test_halves_of_another_shape_are_refused(directions: GroupDirections) -> None:
    newcomer = halves("a", noise=0.5, seed=99)
    with pytest.raises(ValueError, match="halves must hold the modules of the run"):
        directions.place({name: tensor for name, tensor in newcomer.items() if "layer.0" not in name})
    with pytest.raises(ValueError, match=r"layer.0.query: halves have another shape"):
        directions.place(halves("a", noise=0.5, seed=99, size=32))
