"""Bounds on updates by hand: what honest training can do is passed, what it cannot is refused or named."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedlease.core.screening import Bounds, Change, beyond_the_step, change_of, copied, start_of
from fedlease.core.suspects import Seen, compare, replayed, sample
from fedlease.core.types import AdapterSpec, ClientModel, ClientTask, ClientUpdate, Stage

SPEC = AdapterSpec(r=1, alpha=1.0, dropout=0.0, target_modules=("m",))
BOUNDS = Bounds(norm=10.0, step=8.0, copies=True, lr=0.01, weight_decay=0.0, batch_size=4)
NAMES = frozenset({"m/A/0", "m/B/0"})


def model(a: float = 1.0, b: float = 0.0, **changes: object) -> ClientModel:
    tensors = {"m/A/0": torch.full((1, 2), a), "m/B/0": torch.full((2, 1), b)}
    return ClientModel(SPEC, tensors, **changes)  # type: ignore[arg-type]


def task(of: ClientModel, epochs: int = 2, **changes: object) -> ClientTask:
    return ClientTask("experts", 1, of, (Stage(NAMES, epochs),), NAMES, **changes)  # type: ignore[arg-type]


def update(a: float, b: float, client: str = "x", **more: Tensor) -> ClientUpdate:
    tensors = {"m/A/0": torch.full((1, 2), a), "m/B/0": torch.full((2, 1), b), **more}
    return ClientUpdate(client, "experts", 1, 10, tensors)


def test_no_value_changes_faster_than_the_optimiser_moves() -> None:
    # 10 rows in batches of 4 are 3 steps, and 2 epochs 6: 6 x .01 x 8 = .48, and .01 for what rounding does to A = 1.
    assert beyond_the_step(task(model()), update(1.48, 0.47), 10, BOUNDS) == ""
    said = beyond_the_step(task(model()), update(1.0, 0.5), 10, BOUNDS)
    assert said == (
        "m/B/0 holds a value that changed by 0.5, and 6 steps at train.lr = 0.01 cannot change one by more than 0.48 "
        "(bounds.step)"
    )
    assert beyond_the_step(task(model()), update(1.0, 0.5), 10, replace(BOUNDS, step=None)) == ""


def test_private_heads_move_as_far_as_they_like_and_adapters_do_not() -> None:
    head = {"head/w": torch.zeros(2)}
    sent = ClientModel(SPEC, {**model().tensors, **head})
    asked = ClientTask("experts", 1, sent, (Stage(NAMES | head.keys(), 2),), NAMES | head.keys())
    moved = {"head/w": torch.full((2,), 4.0)}
    assert beyond_the_step(asked, update(1.0, 0.1, **moved), 10, BOUNDS).startswith("head/w holds a value that changed")
    private = replace(BOUNDS, private=True)
    assert beyond_the_step(asked, update(1.0, 0.1, **moved), 10, private) == ""
    assert "cannot change one by more than" in beyond_the_step(asked, update(1.0, 0.5, **moved), 10, private)


def test_adamw_never_moves_a_value_farther_than_the_default_allows() -> None:
    # The worst sequence for Cauchy and Schwarz: gradients that grow by beta_2 / beta_1 from step to step.
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    adamw = torch.optim.AdamW([parameter], lr=1.0, weight_decay=0.0, eps=1e-30)
    farthest = 0.0
    for step in range(60):
        before = parameter.item()
        parameter.grad = torch.tensor([(0.999 / 0.9) ** step], dtype=torch.float64)
        adamw.step()
        # Long after the start, where the second moment is not corrected for it any more.
        adamw.state[parameter]["step"].add_(10_000 * (step == 0))
        farthest = max(farthest, abs(parameter.item() - before))
    assert 7.2 < farthest < 7.28, "0.1 / sqrt(0.001 x (1 - 0.81 / 0.999)) = 7.27"


def test_what_is_trained_from_is_the_model_the_chosen_candidate_or_both_parts_of_b() -> None:
    other = {"m/A/0": torch.full((1, 2), 5.0), "m/B/0": torch.full((2, 1), 6.0)}
    third = {"m/A/0": torch.full((1, 2), 7.0), "m/B/0": torch.full((2, 1), 8.0)}
    assert start_of(task(model(candidates=(other, third))), 1)["m/B/0"][0].item() == 8.0
    halves = start_of(task(model(), halves=True), None)
    assert halves.keys() == {"m/A/0", "m/B/0", "m/B/1"} and halves["m/B/1"].tolist() == [[0.0], [0.0]]


def changes(*lengths: float, steps: int | tuple[int, ...] = 1) -> dict[str, Change]:
    each = steps if isinstance(steps, tuple) else (steps,) * len(lengths)
    made = {}
    for client, length, count in zip("abcdefgh", lengths, each, strict=False):
        start = {"m/B/0": torch.zeros(4)}
        # Every client has a direction of its own, near the common one.
        moved = torch.ones(4)
        moved[ord(client) % 4] += 0.3
        upload = {"m/B/0": moved / moved.norm() * length}
        made[client] = Change(start, upload, count, length)
    return made


def test_an_update_far_longer_than_the_median_is_refused() -> None:
    found = compare(changes(1.0, 1.2, 0.8, 13.0), ["abcd"], BOUNDS)
    # The median of .8, 1, 1.2 and 13 is 1.1, and 13 / 1.1 = 11.8.
    assert found.refused == {
        "d": "its update is 11.8 times as long as the median of its cluster, 13 against 1.1 (bounds.norm allows 10 "
        "times)"
    }
    assert not compare(changes(1.0, 1.2, 0.8, 10.9), ["abcd"], BOUNDS).refused
    assert not compare(changes(1.0, 1.2, 0.8, 13.0), ["abcd"], replace(BOUNDS, norm=None)).refused


def test_many_rows_go_far_and_few_go_fast_and_neither_is_refused() -> None:
    assert not compare(changes(1.0, 1.0, 1.0, 50.0, steps=(10, 10, 10, 1000)), ["abcd"], BOUNDS).refused
    assert not compare(changes(9.0, 9.0, 9.0, 5.0, steps=(1000, 1000, 1000, 1)), ["abcd"], BOUNDS).refused
    assert compare(changes(1.0, 1.0, 1.0, 50.0, steps=(10, 10, 10, 20)), ["abcd"], BOUNDS).refused


def test_of_clients_that_have_fitted_their_few_rows_the_median_is_no_measure() -> None:
    # Three have nothing left to learn. The fourth has 4 values and 25 steps at lr = .01: without a direction they make
    # .01 x sqrt(25 x 4) = .1, with one .01 x 25 x sqrt(4) = .5. Ten times .1 is allowed, whatever the median.
    assert not compare(changes(1e-9, 1e-9, 1e-9, 0.5, steps=25), ["abcd"], BOUNDS).refused
    assert not compare(changes(1e-9, 1e-9, 1e-9, 0.99, steps=25), ["abcd"], BOUNDS).refused
    assert [*compare(changes(1e-9, 1e-9, 1e-9, 1.01, steps=25), ["abcd"], BOUNDS).refused] == ["d"]
    assert [*compare(changes(1e-9, 1e-9, 1e-9, 0.5, steps=25), ["abcd"], replace(BOUNDS, lr=0.0)).refused] == ["d"]


def test_a_liar_that_sends_next_to_nothing_gets_nobody_else_refused() -> None:
    # In its cluster of two the other's update is a million times its own; among all five it is as usual.
    assert not compare(changes(1e-6, 1.0, 1.0, 1.1, 0.9), ["ab", "cde"], BOUNDS).refused
    assert not compare(changes(1e-6, 1.0), ["ab"], BOUNDS).refused, "of two there is no median"


def test_who_points_against_its_cluster_is_named_and_used() -> None:
    made = changes(1.0, 1.0, 1.0, 1.0)
    flipped = {"m/B/0": -made["d"].tensors["m/B/0"]}
    made["d"] = Change(made["d"].start, flipped, 1, 1.0)
    found = compare(made, ["abcd"], BOUNDS)
    assert not found.refused and [*found.named] == ["d"] and "points against" in found.named["d"][0]
    assert not compare(made, ["abcd"], BOUNDS, warmups={}).named


def with_agreement(agreement: float, share: float) -> dict[str, Change]:
    """Three updates of this mean cosine, and a fourth that agrees with them by a share of it."""
    common, rest = agreement**0.5, (1 - agreement) ** 0.5
    made = {client: [common, *(rest * (place == other) for other in range(4))] for place, client in enumerate("abc")}
    made["d"] = [share * common, 0, 0, 0, (1 - share**2 * agreement) ** 0.5]
    start = {"m/B/0": torch.zeros(5)}
    return {client: Change(start, {"m/B/0": torch.tensor(to)}, 1, 1.0) for client, to in made.items()}


@pytest.mark.parametrize("agreement", [0.12, 0.2, 0.9])
@pytest.mark.parametrize(("share", "named"), [(1.0, False), (0.0, False), (-0.45, False), (-0.55, True), (-1.0, True)])
def test_a_direction_is_measured_by_how_much_the_others_agree(agreement: float, share: float, named: bool) -> None:
    found = compare(with_agreement(agreement, share), ["abcd"], BOUNDS)
    assert [*found.named] == ["d"] * named


def test_whose_direction_was_refused_is_used_again_once_it_goes_the_way_of_the_others() -> None:
    refusing = replace(BOUNDS, against="refuse")
    # By themselves such small cosines tell nothing.
    assert not compare(with_agreement(0.05, -1.0), ["abcd"], refusing).refused
    assert [*compare(with_agreement(0.05, -1.0), ["abcd"], refusing, watched=["d"]).refused] == ["d"]
    assert [*compare(with_agreement(0.2, -0.1), ["abcd"], refusing, watched=["d"]).refused] == ["d"]
    assert not compare(with_agreement(0.05, 0.1), ["abcd"], refusing, watched=["d"]).refused
    assert not compare(with_agreement(0.0, -1.0), ["abcd"], refusing, watched=["d"]).refused, "the others have no way"


@pytest.mark.parametrize(
    ("signs", "lengths", "named"),
    [
        # Three agree, the fourth is three times as long (the median is 1) and points against them.
        ((1, 1, 1, -1), (1, 1, 1, 3), ["d"]),
        ((1, 1, 1, -1), (1, 1, 1, 2), []),  # as long as an honest one of a contradicting task may be
        ((1, 1, 1, 1), (1, 1, 1, 3), []),  # long, and along with all
        ((1, 1, -1, -1), (1, 1, 3, 3), []),  # two against two: the median is 2, and nobody can say who lies
        ((1, 1, 1, -1, -1), (1, 1, 1, 3, 3), ["d", "e"]),
    ],
)
def test_a_long_warm_up_against_more_than_go_its_way_is_named_or_refused(
    signs: tuple[int, ...], lengths: tuple[float, ...], named: list[str]
) -> None:
    start = {"m/A/0": torch.ones(1, 2), "m/B/0": torch.zeros(2, 1)}
    clients = "abcde"[: len(signs)]
    made = {
        # What A has done tells nothing: here everybody's goes the same way.
        c: Change(start, {"m/A/0": torch.ones(1, 2) * 1.01, "m/B/0": torch.tensor([[float(sign * by)], [0.1]])}, 1, by)
        for c, sign, by in zip(clients, signs, lengths, strict=True)
    }
    found = compare(made, [clients], replace(BOUNDS, copies=False), warmups={})
    assert [*found.named] == named and not found.refused
    if named == ["d"]:
        first = found.named["d"]
        assert first == ["its warm-up is 3 times as long as the median and points against 3 that agree"]
    found = compare(made, [clients], replace(BOUNDS, copies=False, against="refuse"), warmups={})
    assert [*found.refused] == named and not found.named
    # Asked again alone, it stands among the warm-ups that were used.
    if named == ["d"]:
        before = {c: Seen(True, change.length, 1, torch.empty(0)) for c, change in made.items() if c != "d"}
        used = {c: change for c, change in made.items() if c != "d"}
        again = compare({"d": made["d"]}, [clients], BOUNDS, before=before, warmups=used)
        assert again.named == {"d": first}


def test_around_a_common_optimum_honest_changes_cancel_and_nobody_is_named() -> None:
    # Three corners of a triangle about the mean: each points against the sum of the other two.
    corners = [[1.0, 0.0], [-0.5, 0.866], [-0.5, -0.866]]
    start = {"m/B/0": torch.zeros(2)}
    made = {c: Change(start, {"m/B/0": torch.tensor(at)}, 1, 1.0) for c, at in zip("abc", corners, strict=True)}
    assert not compare(made, ["abc"], BOUNDS).named


def test_clients_that_send_the_same_are_named_both() -> None:
    made = changes(1.0, 1.0, 1.0)
    made["c"] = replace(made["c"], tensors={"m/B/0": made["a"].tensors["m/B/0"] * 1.001}, length=1.001)
    named = compare(made, ["abc"], BOUNDS).named
    assert named == {
        "a": ["sent what client 'c' sent"],
        "c": ["sent what client 'a' sent"],
    }


def test_a_foreign_expert_is_no_result_of_training() -> None:
    spec = replace(SPEC, num_experts=2, own=0, mixer="top_m")
    tensors = {**model().tensors, "m/A/1": torch.full((1, 2), 3.0), "m/B/1": torch.full((2, 1), 4.0)}
    mixed = task(ClientModel(spec, tensors))
    assert copied(mixed, update(3.0, 4.001)) == "it is a copy of expert 1 that it was sent (bounds.copies)"
    assert copied(mixed, update(1.1, 0.1)) == "" and copied(mixed, update(1.0, 0.0)) == "", "nothing learnt is no lie"
    other = {"m/A/0": torch.full((1, 2), 3.0), "m/B/0": torch.full((2, 1), 4.0)}
    chosen = replace(update(3.0, 4.0), choice=0)
    assert "candidate 1" in copied(task(model(candidates=(dict(model().tensors), other))), chosen)


@pytest.mark.parametrize(("second", "refused"), [(0.5, True), (0.4, False)])
def test_the_halves_of_a_clients_rows_do_not_learn_one_adapter(second: float, refused: bool) -> None:
    more = {"m/A/1": torch.full((1, 2), 1.2), "m/B/1": torch.full((2, 1), second)}
    assert bool(copied(task(model(), halves=True), update(1.2, 0.5, **more))) is refused


def remembered(sent: ClientUpdate, length: float = 1.0) -> Seen:
    return Seen(False, length, 1, sample(sent.tensors))


def test_who_is_not_in_the_step_counts_with_its_last_update() -> None:
    made = changes(20.0)
    before = {client: remembered(update(0.0, 0.0)) for client in "bc"}
    assert "20 times as long" in compare(made, ["abc"], BOUNDS, before=before).refused["a"]
    assert not compare(made, ["ab"], BOUNDS, before={"b": before["b"]}).refused, "of two there is no median"


def test_an_update_is_recognised_when_it_comes_again_with_a_little_noise() -> None:
    start, first = sample(model().tensors), update(1.2, 0.5)
    seen = {"x": {3: remembered(first)}, "y": {4: remembered(update(0.9, 0.2))}}
    assert replayed("x", sample(update(1.2, 0.5001).tensors), start, seen) == (
        "it is the update that it sent in step 3 (bounds.copies)"
    )
    assert "client 'y' sent in step 4" in replayed("x", sample(update(0.9, 0.2).tensors), start, seen)
    assert replayed("x", sample(update(1.1, 0.6).tensors), start, seen) == ""


def test_a_sample_has_a_few_values_of_every_tensor() -> None:
    assert sample({"b": torch.arange(100.0), "a": torch.zeros(3)}).tolist() == [0, 0, 0, 0, 12, 24, 36, 48, 60, 72, 84]
    assert sample({}).numel() == 0


def test_a_change_is_from_start_to_upload() -> None:
    found = change_of(task(model()), update(1.0, 3.0), 7)
    assert (found.steps, found.length) == (7, pytest.approx(18**0.5)) and found.of("m/B/0").tolist() == [[3.0], [3.0]]
