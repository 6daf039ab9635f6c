"""A run folder in every state it can be in, as the values a report is drawn from."""

from pathlib import Path

import pytest
from reporting.report_folders import CLIENTS, DISTANCES, allocation, bare, finished, line, put, steps, summary

from fedlease.errors import RunFolderError
from fedlease.reporting.run.advice import advise
from fedlease.reporting.run.reading import read_run
from fedlease.reporting.run.tables import newcomer_table


def titles(out: Path) -> list[str]:
    return [advice.title for advice in advise(read_run(out))]


def test_a_score_belongs_to_the_passes_before_it(tmp_path: Path) -> None:
    run = read_run(finished(tmp_path))
    # Warm-up of 3 epochs: step 1 scores the untrained model, round 1 the warmed-up one, round 2 one pass later.
    curve = [(point.passes, point.mean) for point in run.main.points]
    assert curve == [(0, 0.25), (3, 0.5), (4, 0.5), (5, pytest.approx(0.7))]
    # fedit has no warm-up: its first round scores the untrained model.
    assert [point.passes for point in run.methods[1].points] == [0, 1, 5]


def test_sums_are_over_all_steps(tmp_path: Path) -> None:
    main = read_run(finished(tmp_path)).main
    assert [main.total(key) for key in ("bytes_up", "bytes_down", "head_bytes_up")] == [300, 1200, 21]
    assert (main.spent("train"), main.spent("evaluate")) == (6.0, 1.5)


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run = read_run(bare(tmp_path, baselines=["fedit"]))
    assert (run.main.steps, run.main.mean, run.grouping, run.missing) == ((), None, None, ("fedit",))
    assert not run.finished
    assert "Not finished" in titles(tmp_path)


def test_a_finished_run_is_finished(tmp_path: Path) -> None:
    assert read_run(finished(tmp_path)).finished
    assert "Not finished" not in titles(tmp_path)


def test_a_line_that_is_being_written_does_not_count_yet(tmp_path: Path) -> None:
    steps(bare(tmp_path), [line(1, 0, {"a0": 0.5})])
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"step": 2, "meth')
    assert [step.step for step in read_run(tmp_path).main.steps] == [1]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    bare(tmp_path)
    (tmp_path / "rounds.jsonl").write_text('{"step": 1, "meth\n')
    with pytest.raises(RunFolderError, match=r"rounds\.jsonl, line 1 is damaged"):
        read_run(tmp_path)


def test_a_damaged_allocation_is_named(tmp_path: Path) -> None:
    put(bare(tmp_path) / "allocation.json", {"clients": ["a0"]})
    with pytest.raises(RunFolderError, match=r"allocation\.json is damaged: num_experts is missing"):
        read_run(tmp_path)


def test_a_step_that_stopped_the_run(tmp_path: Path) -> None:
    failed = {"step": 2, "method": "fedlease", "phase": "experts", "round": 1, "refused": {"a0": "NaN"}}
    steps(bare(tmp_path), [line(1, 0, {"a0": 0.5}), failed])
    assert [step.failed for step in read_run(tmp_path).main.steps] == [False, True]
    assert titles(tmp_path)[:3] == ["The run stopped", "Not finished", "Update of a0 refused"]


def test_sampled_clients_leave_gaps(tmp_path: Path) -> None:
    waves = [line(1, 0, {"a0": 0.2, "a1": 0.4}), line(2, 0, {"b0": 0.6, "b1": 0.8}), line(3, 1, {"a0": 1.0})]
    steps(bare(tmp_path, clients_per_round=2), waves)
    points = read_run(tmp_path).main.points
    # Both waves of the warm-up score the untrained model: one point of four clients, then one of a single client.
    assert [(point.passes, point.mean, len(point.scores)) for point in points] == [(0, 0.5, 4), (3, 1.0, 1)]


def test_a_method_without_allocation(tmp_path: Path) -> None:
    steps(bare(tmp_path, method="fedit"), [line(1, 1, {"a0": 0.5})])
    summary(tmp_path, dict.fromkeys(CLIENTS, 0.75), experts=1)
    run = read_run(tmp_path)
    assert (run.grouping, run.experts(), run.usage(), run.main.mean) == (None, {}, {}, 0.75)


def test_one_client(tmp_path: Path) -> None:
    bare(tmp_path, {"only": "t"})
    allocation(tmp_path, [[0]], {"only": 0}, {})
    (advice,) = [a for a in advise(read_run(tmp_path)) if a.title == "One expert"]
    assert "The federation has 1 client, and fewer than three" in advice.text


def test_nothing_separates(tmp_path: Path) -> None:
    allocation(bare(tmp_path), DISTANCES, dict.fromkeys(CLIENTS, 0), {"2": 0.01, "3": 0.04})
    (advice,) = [a for a in advise(read_run(tmp_path)) if a.title == "Nothing separates the clients"]
    assert "0.040, of 3 groups" in advice.text


def test_identical_clients(tmp_path: Path) -> None:
    allocation(bare(tmp_path), [[0.0] * 4] * 4, dict.fromkeys(CLIENTS, 0), {})
    (advice,) = [a for a in advise(read_run(tmp_path)) if a.title == "One expert"]
    assert "identical" in advice.text


@pytest.mark.parametrize(
    ("silhouettes", "least", "doubts"),
    [
        ({"2": 0.7, "3": 0.3}, 0.05, ()),
        ({"2": 0.7, "3": 0.66}, 0.05, ()),
        ({"2": 0.7, "3": 0.68}, 0.05, ("3 groups would be nearly as good",)),
        ({"2": 0.14, "3": 0.01}, 0.05, ("stand little apart",)),
        ({"2": 0.5, "3": 0.1}, 0.49, ("barely above",)),
        ({"2": 0.06, "3": 0.05}, 0.05, ("stand little apart", "barely above", "nearly as good")),
    ],
)
def test_a_close_call_is_told(tmp_path: Path, silhouettes: object, least: float, doubts: tuple[str, ...]) -> None:
    bare(tmp_path, min_silhouette=least)
    allocation(tmp_path, DISTANCES, {"a0": 0, "a1": 0, "b0": 1, "b1": 1}, silhouettes)
    found = [a.text for a in advise(read_run(tmp_path)) if "close call" in a.title]
    assert len(found) == bool(doubts)
    assert all(doubt in found[0] for doubt in doubts)


@pytest.mark.parametrize(("signal", "told"), [("B", True), ("BA", False)])
def test_a_close_call_by_b_names_the_other_signal(tmp_path: Path, signal: str, told: bool) -> None:
    bare(tmp_path, fedlease={"signal": signal})
    allocation(tmp_path, DISTANCES, {"a0": 0, "a1": 0, "b0": 1, "b1": 1}, {"2": 0.7, "3": 0.69})
    (advice,) = [a for a in advise(read_run(tmp_path)) if "close call" in a.title]
    assert ("fedlease.signal=BA" in advice.todo) is told


def test_singletons_zero_modules_and_late_clients_are_told(tmp_path: Path) -> None:
    bare(tmp_path)
    warnings = ["B is all zero and has no direction for 1 client (a0) in 1 module (m)"]
    allocation(tmp_path, [row[:3] for row in DISTANCES[:3]], {"a0": 0, "a1": 0, "b0": 1}, {"2": 0.7}, warnings=warnings)
    summary(tmp_path, dict.fromkeys(CLIENTS, 0.75), warnings=["client 'b1' came late and was placed with expert 1"])
    found = {advice.title: advice.text for advice in advise(read_run(tmp_path))}
    assert found["Experts with one client"].startswith("b0 trains alone: its expert is")
    assert found["Modules without direction"] == warnings[0]
    assert found["Late clients"].startswith("b1 had no warm-up")
    assert "placed with expert 1" in found["Late clients"]


def test_refusals_say_who_when_and_why(tmp_path: Path) -> None:
    steps(bare(tmp_path), [line(n, n, {"a0": 0.5}, {"b0": "wrong shapes"}) for n in (1, 2)])
    (advice,) = [a for a in advise(read_run(tmp_path)) if a.title == "Update of b0 refused"]
    assert advice.text.startswith("fedlease, steps 1, 2: wrong shapes.")


def test_clients_at_the_level_of_guessing_are_told(tmp_path: Path) -> None:
    # b1 ends at 0.5, where the most frequent class gets 0.5 too; the others are above.
    finished(tmp_path)
    (advice,) = [a for a in advise(read_run(tmp_path)) if a.title == "No better than guessing"]
    assert advice.text.startswith("For b1 the model")


def test_newcomers_with_and_without_a_margin(tmp_path: Path) -> None:
    bare(tmp_path)
    entry = {"task": "t", "expert": 0, "distances": [0.5], "unlike": False, "scores": {"mixture": 0.5, "own": None}}
    put(tmp_path / "onboarded" / "n" / "onboarding.json", {"client": "n", "margin": float("inf"), **entry})
    put(tmp_path / "onboarded" / "k" / "onboarding.json", {"client": "k", "margin": 0.25, **entry})
    table = newcomer_table(read_run(tmp_path))
    assert table is not None and table.header[4:] == ("margin", "unlike any", "mixture", "own")
    rows = [[cell.text for cell in row] for row in table.rows]
    assert [[row[0], *row[4:]] for row in rows] == [["k", "0.250", "no", "50.0", "-"], ["n", "-", "no", "50.0", "-"]]
    known = {"similarities": [0.5], "errors": [0.125], "reliability": 0.25, "learnt": False}
    put(tmp_path / "onboarded" / "k" / "onboarding.json", {"client": "k", "margin": 0.25, **entry, **known})
    table = newcomer_table(read_run(tmp_path))
    assert table is not None and table.header[3] == "corrected similarity to each expert"
    assert [cell.text for cell in table.rows[0]][3:6] == ["1: 0.50 ± 0.12", "0.250", "not learnt yet"]
