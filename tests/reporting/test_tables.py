"""Numbers of the tables, derived by hand; units; names from the data as text."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reporting.made_up import HOSTILE, console, summary
from rich.console import Console

from fedlease.cli.check_report import render_check
from fedlease.config.settings import resolve
from fedlease.reporting.formats import human_bytes, human_seconds, target_column
from fedlease.reporting.results import render_onboarding, render_results
from fedlease.reporting.tables import Cell, Table, cost_rows, number, results_table
from fedlease.runs.estimate import CheckReport, MethodEstimate
from fedlease.storage.summary import Summary


def rows_of(summaries: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    read = {method: Summary.model_validate(content) for method, content in summaries.items()}
    table = results_table(read)
    return {row[0].text: [cell.text for cell in row[1:]] for row in (*table.rows, *table.foot, *cost_rows(read))}


def test_the_table_holds_tasks_by_methods_and_the_majority_of_each_task() -> None:
    rows = rows_of({"fedlease": summary(), "local": summary(own=None, up=0)})
    assert rows["[bold]t[/]"] == ["50.0", "50.0", "25.0"]
    assert rows["u"] == ["75.0", "75.0", "50.0"]
    assert rows["mean over clients"] == ["62.5", "62.5", "37.5"]
    # (0.5 x 10 + 0.75 x 30) / 40 = 0.6875, shown with one digit
    assert rows["mean by test rows"] == ["68.8", "68.8", ""]
    assert rows["own expert only"] == ["62.5", "-", ""]
    assert rows["untrained"] == ["12.5", "12.5", ""]
    assert rows["adapters up"] == ["1.5 MB", "0 B", ""]
    assert rows["adapters down"] == ["2.0 kB", "2.0 kB", ""]
    assert rows["training time"] == ["1 min 15 s", "1 min 15 s", ""]


def test_a_table_too_wide_for_the_terminal_goes_on_below_with_its_first_column() -> None:
    header = ("task", *(f"method-{n}" for n in range(4)))
    table = Table("scores", header, ((Cell("t" * 10), *map(number, range(4))),), ((Cell("all"), *[Cell("")] * 4),))
    # 11 for the first column and 9 for each of the others: 47 in all, 38 without the last.
    assert table.within(47) == [table]
    first, second = table.within(46)
    assert (first.header, second.header) == (header[:4], ("task", "method-3"))
    # A row without anything to say is left out of a piece.
    assert [row[0].text for row in (*second.rows, *second.foot)] == ["t" * 10] and not second.caption
    # However narrow it is, each piece has a column besides the first.
    assert [piece.header[1] for piece in table.within(5)] == list(header[1:])


@pytest.mark.parametrize("slim", [False, True])
def test_a_caption_wider_than_its_table_stands_on_one_line(*, slim: bool) -> None:
    caption = "distance of its warm-up to those of each expert's clients"
    to = Console(file=io.StringIO(), width=80, record=True)
    to.print(Table(caption, ("expert 1",), ((number(3),),)).for_terminal(slim=slim))
    first, *_ = to.export_text().splitlines()
    assert first.strip() == caption


@pytest.mark.parametrize("methods", [1, 3, 5])
def test_results_fit_a_terminal_of_80_columns(methods: int) -> None:
    worst = {"client": "hospital-northwest", "accuracy": 0.5}
    names = ["fedlease-plus", "fedit", "local", "fedtreelora", "centralised"][:methods]
    to = Console(file=io.StringIO(), width=80, record=True)
    render_results(Path("out"), {name: summary(worst_client=worst) for name in names}, to)
    text = to.export_text()
    # A value that is wrapped is not in one piece.
    assert text.count("50.0 hospital-northwest") == methods
    assert all(name in text for name in names) and text.count("1 min 15 s") == methods


def printed(**changes: Any) -> str:
    to = console()
    render_results(Path("out"), {"fedlease": summary(**changes)}, to)
    return to.export_text()


def test_a_table_of_classes_speaks_of_classes_and_of_heads() -> None:
    text = printed()
    assert "accuracy in % on each client's own test rows" in text
    assert "majority class" in text and "heads local" in text


@pytest.mark.parametrize("metric", ["client", "content", "other"])
def test_a_metric_that_a_foreign_folder_names_is_never_an_attribute(metric: str) -> None:
    assert f"- {HOSTILE}" in printed(metric=metric, worst_client={"client": HOSTILE, "accuracy": 0.5})


def test_a_table_of_written_answers_does_not() -> None:
    text = printed(metric="rouge1")
    assert "ROUGE-1 in % on each client's own test rows" in text
    assert "most frequent answer" in text and "All methods: 7 passes over each client's rows, seed 3." in text
    assert "rouge1" not in text and "class" not in text


def test_further_means_are_those_that_a_summary_has() -> None:
    rows = rows_of({"fedlease": summary(mean_mcc=0.5, mean_macro_f1=0.25), "local": summary(mean_mcc=0.375)})
    assert rows["mean macro F1"] == ["25.0", "-", ""]
    assert rows["mean MCC, x 100"] == ["50.0", "37.5", ""]
    rouge = {"mean_rougeL": 0.25, "mean_exact_match": 0.5, "mean_answer_accuracy": 0.75, "mean_new_one": 0.125}
    rows = rows_of({"fedlease": summary(metric="rouge1", **rouge)})
    names = ("mean ROUGE-L", "mean exact match", "mean accuracy of short answers", "mean new_one")
    assert [rows[name][0] for name in names] == ["25.0", "50.0", "75.0", "12.5"]
    assert "mean macro F1" not in rows


def test_without_experts_there_is_no_row_for_them() -> None:
    assert "own expert only" not in rows_of({"fedit": summary(own=None)})


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (999_960, "1.0 MB"),
        (5e9, "5.0 GB"),
        (2.5e12, "2.5 TB"),
    ],
)
def test_bytes_are_decimal_and_never_a_thousand_of_a_unit(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (75, "1 min 15 s"),
        (3599.6, "1 h 0 min"),
        (3600 * 2 + 60 * 5, "2 h 5 min"),
    ],
)
def test_seconds_carry_over_to_minutes_and_hours(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


def checked() -> CheckReport:
    return CheckReport(
        settings=resolve(preset="smoke"),
        tasks={HOSTILE: "t"},
        labels={HOSTILE: [f"[u]{n}[/u]" for n in range(8)]},
        train_rows={HOSTILE: 11},
        by_label={HOSTILE: {f"[u]{n}[/u]": (n, 1) for n in range(8)}},
        scales={HOSTILE: None},
        test_rows={HOSTILE: 7},
        mean_tokens=12.4,
        truncated=0,
        warnings=["some [i]note[/i]"],
        skipped={"[b]idle[/b]": "no rows"},
        base_parameters=1_234_567,
        adapter_parameters=1024,
        router_parameters=896,
        head_parameters=99,
        assumed_experts=4,
        memory_bytes=2_000_000,
        estimates=[MethodEstimate("fedit", 245_760, 1000, 61.0)],
        seconds_per_row={},
        chosen={},
        noise={},
    )


def test_a_report_in_a_notebook_begins_with_what_was_found_and_not_with_all_settings() -> None:
    assert repr(checked()).startswith("CheckReport(tasks=")


def test_check_shows_rows_costs_and_hostile_names() -> None:
    to = console()
    render_check(checked(), to)
    text = to.export_text()
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines()]
    shown_labels = ", ".join(f"[u]{n}[/u]: {n}+1" for n in range(6)) + " and 2 more"
    assert [HOSTILE, "t", shown_labels, "11", "7"] in lines
    assert ["fedit", "245.8 kB", "1.0 kB", "1 min 1 s"] in lines
    for part in (
        "note some [i]note[/i]",
        "base 1,234,567 parameters",
        "expert 1,024",
        "Peak memory about 2.0 MB.",
        "Next: fedlease run",
    ):
        assert part in text


def test_check_of_clients_without_labels_and_heads_names_neither() -> None:
    to = console()
    render_check(replace(checked(), labels={HOSTILE: ()}, by_label={HOSTILE: {}}, head_parameters=0), to)
    text = to.export_text()
    assert "labels" not in text and "head" not in text
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines()]
    assert [HOSTILE, "t", "11", "7"] in lines


PLACED_BY_DISTANCE = {"similarities": [], "errors": [], "reliability": None, "learnt": True}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "is placed with expert 2, same task: 0.97 ± 0.08."),
        ({"unlike": True}, "it is unlike any expert: its task is none of theirs."),
        ({"unlike": True, "learnt": False}, "it has not learnt enough to tell who has its task (reliability 0.03)."),
    ],
)
def test_a_newcomer_on_the_corrected_scale_is_told_what_is_known(changes: dict[str, Any], words: str) -> None:
    content = {
        "client": "new", "expert": 1, "distances": [1.0, 0.03], "margin": 0.97, "metric": "accuracy", "test_rows": 8,
        "scores": {}, "unlike": False, "similarities": [None, 0.97], "errors": [None, 0.08], "reliability": 0.03,
        "learnt": True, "likeness": "same task: 0.97 ± 0.08", **changes,
    }  # fmt: skip
    to = console()
    render_onboarding(content, to)
    text = " ".join(to.export_text().split())
    assert words in text and "unknown" in text and "corrected similarity" in text


@pytest.mark.parametrize(
    ("metric", "naive", "name"),
    [("accuracy", "majority class", "accuracy"), ("rouge1", "most frequent answer", "ROUGE-1")],
)
def test_a_newcomers_scores_are_called_by_their_name(metric: str, naive: str, name: str) -> None:
    content = {
        "client": "new", "expert": 0, "distances": [0.5], "margin": None, "metric": metric, "test_rows": 8,
        "scores": {naive: 0.25}, "unlike": False, **PLACED_BY_DISTANCE,
    }  # fmt: skip
    to = console()
    render_onboarding(content, to)
    text = to.export_text()
    # A narrow table breaks its title into lines.
    assert f"{name} in % on its 8 test rows" in " ".join(text.split()) and naive in text


def test_what_is_predicted_is_shown_by_label_or_as_mean_and_deviation() -> None:
    assert target_column({"a": {"no": (2, 1)}}, {"a": None}) == ("label: train+test", {"a": "no: 2+1"})
    assert target_column({"a": {}, "b": {}}, {"a": (101.04, 44.52), "b": None}) == (
        "mean ± deviation",
        {"a": "101 ± 44.5", "b": "-"},
    )
    assert target_column({"a": {}}, {"a": None}) == ("", {})
