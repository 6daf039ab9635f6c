"""The verdict: one object, computed once, with right numbers, and shown alike by everything that shows it."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from reporting.made_up import console
from reporting.page_text import own_text
from reporting.report_folders import CLIENTS, FINALS, bare, finished, generated, line, on_halves, put, steps, summary
from rich.console import Console

from fedlease.reporting.results import render_results
from fedlease.reporting.run import page as report
from fedlease.reporting.run.classes import class_table, confusion_tables
from fedlease.reporting.run.reading import read_run
from fedlease.reporting.run.tables import client_table
from fedlease.reporting.run.verdict import conclude
from fedlease.reporting.run.words import dip_words, score_words
from fedlease.reporting.verdict import gain_table, step_words, verdict_lines, worst_first
from fedlease.storage.class_scores import ClassScores
from fedlease.storage.summary import Summary
from fedlease.storage.verdict import NextStep, Verdict
from fedlease.tasks.metric_words import of_metric

ROWS = 100


def compared(out: Path, ours: dict[str, int], alone: dict[str, int], *, rows: bool = True, **more: Any) -> Path:
    """A run with `local`, of which so many of every client's hundred rows are right, the first ones."""
    bare(out, baselines=["local"], **more)
    for folder, right in ((out, ours), (out / "baselines" / "local", alone)):
        summary(folder, {client: count / ROWS for client, count in right.items()}, experts=1)
        content = json.loads((folder / "summary.json").read_text())
        for row in content["per_client"].values():
            row["num_test"] = ROWS
        put(folder / "summary.json", content)
        if rows:
            put(folder / "row_scores.json", {c: "1" * count + "0" * (ROWS - count) for c, count in right.items()})
    return out


OURS, ALONE = {"a0": 90, "a1": 80, "b0": 60, "b1": 50}, {"a0": 70, "a1": 60, "b0": 75, "b1": 50}


def of(out: Path) -> Verdict:
    return conclude(read_run(out))


def test_joining_helps_costs_or_is_unclear_by_the_interval(tmp_path: Path) -> None:
    verdict = of(compared(tmp_path, OURS, ALONE))
    # 20 of 100 rows that one run alone got right are far from chance; none is not.
    assert {client: row.effect for client, row in verdict.clients.items()} == {
        "a0": "helps", "a1": "helps", "b0": "costs", "b1": "unclear",
    }  # fmt: skip
    assert verdict.sentences[0] == (
        "Joining helps 2 of 4 clients; costs b0 15.0 points; for 1 the test rows do not tell."
    )
    # (20 + 20 - 15 + 0) / 4 points.
    assert verdict.gain is not None and verdict.gain.difference == pytest.approx(0.0625)
    assert verdict.gain.paired and verdict.against == "local"


def test_tasks_have_the_mean_of_their_clients(tmp_path: Path) -> None:
    tasks = of(compared(tmp_path, OURS, ALONE)).tasks
    assert {name: (t.helps, t.costs, t.unclear) for name, t in tasks.items()} == {"news": (2, 0, 0), "mood": (0, 1, 1)}
    assert tasks["news"].gain.difference == pytest.approx(0.2)
    assert tasks["mood"].gain.difference == pytest.approx(-0.075)


def with_classes(folder: Path, client: str = "a0") -> None:
    """48 rows of `usual` and 2 of `rare`, all of them taken for usual ones; nobody else has the scores by class."""
    found = ClassScores.of(((0, 0, 48), (1, 0, 2)), ("usual", "rare"))
    content = json.loads((folder / "summary.json").read_text())
    content["classes"] = {client: found.content}
    content["per_client"][client] |= {"macro_f1": 0.49, "mcc": 0.0}
    put(folder / "summary.json", content)


def test_a_class_that_is_never_predicted_is_the_first_and_loudest_line(tmp_path: Path) -> None:
    with_classes(compared(tmp_path, OURS, ALONE))
    verdict = of(tmp_path)
    assert verdict.alarms == ["Never predicted: 'rare' of a0 (2 of 50 test rows)."]
    assert verdict.clients["a0"].never_predicted == ["rare"]
    assert verdict.clients["a0"].metrics == {"macro_f1": 0.49, "mcc": 0.0}
    assert verdict.warnings[0].title == "A class is never predicted" and verdict.next_step.text.startswith("A class is")
    assert verdict.next_step.command == "fedlease run DIR/config.yaml --set train.class_weights=balanced"
    balanced = compared(tmp_path / "balanced", OURS, ALONE, train={"class_weights": "balanced"})
    with_classes(balanced)
    assert "class_weights" not in of(balanced).next_step.text + of(balanced).next_step.command
    first = own_text(report.write_report(tmp_path).read_text()).split('<section id="verdict">')[1]
    assert first.index('class="alarm"') < first.index('class="lead"')
    to = console()
    content = json.loads((tmp_path / "summary.json").read_text()) | {"verdict": verdict.content}
    render_results(tmp_path, {"fedlease": content}, to)
    assert to.export_text().strip().startswith("Never predicted: 'rare' of a0")


def test_a_label_that_many_clients_miss_is_told_once(tmp_path: Path) -> None:
    compared(tmp_path, OURS, ALONE)
    for client in ("a0", "a1"):
        with_classes(tmp_path, client)
        content = json.loads((tmp_path / "summary.json").read_text())
        content["classes"] = {**content["classes"], "b0": content["classes"][client]}
        if client == "a1":
            content["classes"]["a0"] = content["classes"][client]
        put(tmp_path / "summary.json", content)
    # 2 of 50 rows each.
    assert of(tmp_path).alarms == ["Never predicted: 'rare' of 3 clients (6 of 150 test rows)."]


def test_a_score_without_one_of_the_classes_is_nobodys_best(tmp_path: Path) -> None:
    with_classes(compared(tmp_path, OURS, ALONE))
    run = read_run(tmp_path)
    table = client_table(run, conclude(run))
    best = {row[0].text: [cell.text for cell in row if cell.best] for row in table.rows}
    # Of a0 the 90 % do not count, so that the 70 % of local are its best.
    assert best == {"a0": ["70.0"], "a1": ["80.0"], "b0": ["75.0"], "b1": ["50.0", "50.0"]}
    assert table.header[-4:-1] == ("macro F1", "MCC", "never predicted")
    assert [cell.text for cell in table.rows[0]][-4:-1] == ["49.0", "0.0", "rare"]


def test_classes_and_who_is_taken_for_whom_are_in_tables(tmp_path: Path) -> None:
    with_classes(compared(tmp_path, OURS, ALONE))
    run = read_run(tmp_path)
    table = class_table(run)
    assert table is not None
    # Precision of usual is 48 of 50, its F1 2 x 48 / (48 + 50).
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["a0", "usual", "48", "50", "96.0", "100.0", "98.0"],
        ["a0", "rare", "2", "never", "-", "0.0", "0.0"],
    ]
    (matrix,) = confusion_tables(run)
    assert [[cell.text for cell in row] for row in matrix.rows] == [["usual", "48", "0"], ["rare", "2", "0"]]
    assert class_table(read_run(generated(tmp_path / "g"))) is None and confusion_tables(read_run(tmp_path / "g")) == []


def test_a_fall_of_the_mean_is_explained_by_when_it_is(tmp_path: Path) -> None:
    high, low = dict.fromkeys(CLIENTS, 0.5), dict.fromkeys(CLIENTS, 0.45)
    assert "5.0 points, over 4 clients: after the warm-up" in dip_words(high, low, first=True)
    assert "before each trains on" in dip_words(high, low, first=False)
    # A rise, a fall of one point, and clients that were not asked both times.
    assert not any(
        dip_words(one, two, first=False) for one, two in ((low, high), (high, {"a0": 0.49}), (high, {"n": 0}))
    )
    steps(bare(tmp_path), [line(1, 0, high), line(2, 1, low)])
    assert "After 3 passes: the mean fell by 5.0 points" in score_words(read_run(tmp_path))


def test_without_scores_of_rows_the_interval_is_wider_and_says_so(tmp_path: Path) -> None:
    paired = of(compared(tmp_path / "a", OURS, ALONE)).clients["a0"].gain
    apart = of(compared(tmp_path / "b", OURS, ALONE, rows=False)).clients["a0"].gain
    assert paired is not None and apart is not None
    assert (paired.paired, apart.paired) == (True, False)
    assert apart.high - apart.low > paired.high - paired.low


def test_a_headline_of_all_rows_together_is_compared_by_accuracy(tmp_path: Path) -> None:
    # The headline of a0 is 0.4 and its rows are 90 % right, as with macro F1.
    compared(tmp_path, OURS, ALONE)
    content = json.loads((tmp_path / "summary.json").read_text())
    content["per_client"]["a0"]["accuracy"] = 0.4
    put(tmp_path / "summary.json", content)
    verdict = of(tmp_path)
    assert verdict.metric == "accuracy" and verdict.clients["a0"].score == 0.4
    assert verdict.clients["a0"].gain is not None and verdict.clients["a0"].gain.difference == pytest.approx(0.2)


def test_without_local_a_sentence_and_a_command_say_how_to_get_the_gain(tmp_path: Path) -> None:
    verdict = of(generated(tmp_path))
    assert verdict.gain is None and verdict.against is None and verdict.tasks == {}
    assert "no baseline local" in verdict.sentences[1]
    assert verdict.next_step.command == "fedlease run DIR/config.yaml --set 'baselines=[fedit, local]'"


def test_local_is_not_compared_with_itself(tmp_path: Path) -> None:
    summary(bare(tmp_path, method="local"), FINALS, experts=1)
    verdict = of(tmp_path)
    assert verdict.gain is None and verdict.sentences[1].startswith("Every client trained alone")
    assert "baselines" not in verdict.next_step.command


def test_nobody_is_said_to_gain_where_no_interval_leaves_out_zero(tmp_path: Path) -> None:
    verdict = of(compared(tmp_path, OURS, OURS))
    assert verdict.sentences[0] == (
        "Joining makes no difference that the test rows can show, for any of 4 clients or on average."
    )


@pytest.mark.parametrize(("change", "effect"), [(4, "helps"), (-4, "costs")])
def test_a_mean_gain_beyond_zero_is_never_called_no_difference(tmp_path: Path, change: int, effect: str) -> None:
    # 4 of 100 rows of one client are within chance (p = 2 x 0.5^4), 4 of 100 of each of four clients are not.
    verdict = of(compared(tmp_path, {c: 70 + change for c in CLIENTS}, dict.fromkeys(CLIENTS, 70)))
    assert verdict.gain is not None and verdict.gain.effect == effect and not verdict.having(effect)
    assert verdict.sentences[0] == f"Joining {effect} on average; for none of 4 clients alone do the test rows tell."


def test_who_loses_by_joining_is_told_to_use_its_own_model(tmp_path: Path) -> None:
    step = of(compared(tmp_path, OURS, ALONE)).next_step
    assert step.command == "fedlease predict DIR FILE --client b0 --method local"
    assert step_words(step, Path("runs/my run")).endswith("predict 'runs/my run' FILE --client b0 --method local")


def test_what_is_urgent_comes_before_all_else(tmp_path: Path) -> None:
    # b1's update was refused.
    assert of(finished(tmp_path)).next_step.text.startswith("Update of b1 refused")


def test_the_groups_and_how_sure_they_are(tmp_path: Path) -> None:
    groups = of(finished(tmp_path / "a")).groups
    assert groups is not None and groups.members == [["a0", "a1"], ["b0", "b1"]]
    assert groups.certainty == "sure" and groups.text.endswith("the number of groups was a clear choice.")
    halves = of(on_halves(tmp_path / "b")).groups
    assert halves is not None and (halves.certainty, halves.not_learnt) == ("close", ["b1"])
    assert halves.text.endswith("sure for 2 of 4 clients, a close call for a1, not known yet for b1.")


def test_an_unfinished_run_says_how_far_it_is_and_has_no_clients(tmp_path: Path) -> None:
    verdict = of(bare(tmp_path))
    assert verdict.sentences == ["fedlease has no final scores yet, and nothing has been scored."]
    assert verdict.clients == {} and gain_table(verdict, of_metric("accuracy")) is None


def test_the_warnings_of_the_report_are_in_it(tmp_path: Path) -> None:
    out = finished(tmp_path)
    page = own_text(report.write_report(out).read_text())
    assert of(out).warnings and all(f"<b>{item.title}.</b>" in page for item in of(out).warnings)


def test_the_page_opens_with_it_and_one_picture(tmp_path: Path) -> None:
    page = own_text(report.write_report(compared(tmp_path, OURS, ALONE)).read_text())
    first = page.split('<section id="verdict">')[1].split("</section>")[0]
    assert page.index('<section id="verdict">') == page.index("<section")
    assert "Joining helps 2 of 4 clients; costs b0 15.0 points" in first
    assert first.count('class="plot"') == 1 and "<code>fedlease predict DIR FILE" in first


def test_the_terminal_begins_with_it_and_ends_with_what_to_do(tmp_path: Path) -> None:
    out = compared(tmp_path / "run", OURS, ALONE)
    content = json.loads((out / "summary.json").read_text())
    shown = Summary.model_validate({**content, "verdict": of(out).content})
    to = console()
    render_results(out, {"fedlease": shown.content}, to)
    lines = [line for line in to.export_text().splitlines() if line.strip()]
    assert lines[0].startswith("Joining helps 2 of 4 clients")
    assert lines[-1].startswith("Next: b0 is better off alone")
    # The one that loses most stands first.
    assert [line.split()[0] for line in lines if line.split()[0] in CLIENTS] == ["b0", "b1", "a0", "a1"]


def test_the_table_fits_a_terminal_of_80_columns(tmp_path: Path) -> None:
    with_classes(compared(tmp_path, OURS, ALONE))
    table = gain_table(of(tmp_path), of_metric("accuracy"))
    assert table is not None
    to = Console(file=io.StringIO(), width=80, record=True)
    to.print(table.for_terminal(slim=True))
    shown = to.export_text()
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown and all(name in shown for name in table.header)


def test_more_clients_than_fit_are_counted(tmp_path: Path) -> None:
    verdict = of(compared(tmp_path, OURS, ALONE))
    table = gain_table(verdict, of_metric("accuracy"), most=2)
    assert table is not None and [row[0].text for row in table.rows] == ["b0", "b1"]
    assert table.caption.endswith("2 clients more in the report")
    assert worst_first(verdict) == ["b0", "b1", "a0", "a1"]


def test_it_is_the_same_when_read_again(tmp_path: Path) -> None:
    verdict = of(compared(tmp_path, OURS, ALONE))
    assert Verdict.model_validate(json.loads(json.dumps(verdict.content))) == verdict
    assert set(CLIENTS) == set(verdict.clients) and verdict_lines(verdict)[0] == verdict.sentences[0]
    assert step_words(NextStep(text="Wait.")) == "Next: Wait."
