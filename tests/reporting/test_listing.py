"""What is listed of runs and of two of them side by side is what their folders hold."""

import json
from pathlib import Path

import pytest
from cli.shell import Shell, shell
from small import FinishedRuns, rounds_of

from fedlease.reporting.listing import difference, difference_tables, listing

__all__ = ["shell"]


@pytest.fixture(scope="module")
def folder(finished: FinishedRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    finished.copy(folder / "first", baselines=["fedit"])
    finished.copy(folder / "compare" / "fedlease" / "seed-1", seed=1, baselines=["fedit", "local"])
    stopped = finished.copy(folder / "stopped", baselines=["fedit"])
    (stopped / "summary.json").unlink()
    damaged = finished.copy(folder / "damaged", baselines=["fedit"])
    (damaged / "clients.json").unlink()
    (damaged / "config.yaml").write_text("rounds: -1")
    (folder / "notes").mkdir()
    return folder


def test_every_run_is_listed_with_its_methods_and_state(folder: Path) -> None:
    runs = {Path(run["folder"]).relative_to(folder).as_posix(): run for run in listing(folder)}
    assert runs.keys() == {"first", "compare/fedlease/seed-1", "stopped", "damaged"}
    first = runs["first"]
    assert first["state"] == "finished" and [m["method"] for m in first["methods"]] == ["fedlease", "fedit"]
    summary = json.loads((folder / "first" / "summary.json").read_text())
    assert first["methods"][0] == {
        "method": "fedlease", "rounds": 2, "metric": "accuracy", "mean": summary["mean"],
        "averaged": summary["averaged"], "state": "finished",
    }  # fmt: skip
    steps = len(rounds_of(folder / "stopped"))
    assert [m["state"] for m in runs["stopped"]["methods"]] == [f"after step {steps}", "finished"]
    assert runs["stopped"]["state"] == "not finished"
    assert runs["damaged"]["reason"].endswith("config.yaml is damaged: rounds: must be at least 0, received -1")


def test_a_run_is_listed_by_itself_and_not_looked_into(folder: Path) -> None:
    assert [run["folder"] for run in listing(folder / "first")] == [str(folder / "first")]


def test_the_command_lists_within_80_columns(folder: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = shell("runs", folder)
    assert done.code == 0 and max(map(len, done.out.splitlines()[:-1])) <= 80
    assert "compare/fedlease/seed-1" in done.out and "must be at least 0, received -1" in done.out
    assert json.loads(shell("runs", folder, "--json").out)["runs"] == listing(folder)


def test_no_runs_and_no_folder_are_said(shell: Shell, tmp_path: Path) -> None:
    assert shell("runs").out == "There are no runs in runs; fedlease run makes one.\n"
    done = shell("runs", tmp_path / "none")
    assert (done.code, done.err) == (
        2,
        f"fedlease: runs: {tmp_path / 'none'} cannot be read: No such file or directory\n",
    )


def test_two_runs_differ_in_what_their_folders_hold(folder: Path) -> None:
    one, two = folder / "first", folder / "compare" / "fedlease" / "seed-1"
    content = difference(one, two)
    assert content["settings"] == {"seed": [0, 1], "baselines": [["fedit"], ["fedit", "local"]]}
    assert content["same_rows"] is False
    summaries = [json.loads((run / "summary.json").read_text()) for run in (one, two)]
    assert content["scores"]["fedlease"]["mean"] == [summary["mean"] for summary in summaries]
    for client, pair in content["scores"]["fedlease"]["clients"].items():
        assert pair == [summary["per_client"][client]["accuracy"] for summary in summaries]
        assert content["groups"][client] == [summary["assignment"][client] for summary in summaries]
    assert list(content["scores"]) == ["fedlease", "fedit"]


def test_groups_are_the_same_whatever_their_numbers_are() -> None:
    base = {
        "runs": [{"folder": "a", "method": "fedlease"}, {"folder": "b", "method": "fedlease"}], "same_rows": True,
        "settings": {}, "groups": {"x": [0, 1], "y": [1, 0]}, "moved": [], "scores": {},
    }  # fmt: skip
    assert list(difference_tables(base)) == [
        "A: a (fedlease)",
        "B: b (fedlease)",
        "The settings are the same.",
        "The groups are the same: 2 among 2 clients.",
        "No method of one metric is finished in both, so that there are no scores to show.",
    ]


def test_the_command_shows_them_side_by_side(folder: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = ("diff", folder / "first", folder / "compare" / "fedlease" / "seed-1")
    done = shell(*words)
    assert done.code == 0 and "settings that differ" in done.out and "B - A" in done.out
    assert max(len(line) for line in done.out.splitlines() if line[:1] in "┃│") <= 80
    assert json.loads(shell(*words, "--json").out) == difference(*words[1:])
    assert shell("diff", folder / "first", folder / "notes").code == 2
