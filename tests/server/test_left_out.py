"""Every mean says over how many of how many clients it is, who is missing and why: files, screen, report."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small import own_rows, rounds_of, small_run, small_settings

from fedlease.cli.check_report import render_check
from fedlease.reporting.results import render_results
from fedlease.reporting.terminal import Terminal
from fedlease.runs.check import check_settings
from fedlease.runs.runner import resume
from fedlease.storage.summary import contents_of
from fedlease.use.export import Exporter
from fedlease.use.open_run import OpenRun
from fedlease.use.run import RunResult

MUTE = "it cannot learn: with one label its head has one output, and its loss is 0"
UNTESTED = "it has no test rows"
SETTINGS: dict[str, Any] = {
    "data__train_rows": None, "data__test_rows": None, "data__clients": "skip", "baselines": ["fedit"], "rounds": 1,
}  # fmt: skip


def write(folder: Path, **splits: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, str, Path]:
    """Four sound clients; one of one label, one without test rows, one whose rows cannot be used."""
    folder = own_rows(tmp_path_factory.mktemp("left") / "rows")
    yes = [{"text": f"mute {n}", "label": "yes"} for n in range(6)]
    write(folder / "mute", train=yes, test=yes[:3])
    write(folder / "untested", train=[{"text": f"u {n}", "label": ["no", "yes"][n % 2]} for n in range(6)], test=[])
    write(folder / "broken", train=[{"text": "", "label": "no"}])
    console = Console(file=io.StringIO(), width=150)
    result = small_run(folder.parent / "r", [Terminal(console)], data__path=str(folder), **SETTINGS)
    return result, console.file.getvalue(), folder  # type: ignore[attr-defined]


def test_the_summary_counts_its_clients_and_says_why_the_others_are_missing(ran: Any) -> None:
    for summary in ran[0].summaries.values():
        assert summary["left_out"] == {"mute": MUTE, "untested": UNTESTED}
        assert (summary["averaged"], summary["num_clients"]) == (4, 6)
        assert list(summary["skipped"]) == ["broken"] and "line 1" in summary["skipped"]["broken"]
        scores = {client: row["accuracy"] for client, row in summary["per_client"].items()}
        assert scores.keys() == {"one", "two", "three", "four", "mute"} and scores["mute"] == 1.0
        del scores["mute"]
        assert summary["mean"] == pytest.approx(sum(scores.values()) / 4)
        assert summary["weighted_mean"] == pytest.approx(sum(scores.values()) / 4)
        assert summary["worst_client"]["accuracy"] == min(scores.values())
        assert summary["means_over"]["mean"] == summary["means_over"]["majority_mean"] == 4
        assert summary["task_clients"] == {"default": {"averaged": 4, "clients": 6}}
        assert "untested" not in summary["per_client"], "no score, and neither 0 nor NaN"


def test_every_round_does_too(ran: Any) -> None:
    for line in rounds_of(ran[0].out):
        assert (line["averaged"], line["num_clients"]) == (4, 6)
        assert line["left_out"] == {"mute": MUTE, "untested": UNTESTED}
        assert "score" not in line["clients"]["untested"] and "mute" not in line["clients"]


def test_the_screen_names_them(ran: Any) -> None:
    result, text, _ = ran
    assert "train loss" in text and "(5 of 6 clients), model received scores" in text and "(4 of 6 clients)" in text
    assert f"note Left out of the means: mute ({MUTE}); untested ({UNTESTED})." in text
    assert "note broken is skipped: " in text and "clients in the means" in text
    quiet = Console(file=io.StringIO(), width=150)
    render_results(result.out, result.summaries, quiet)
    assert "4 of 6" in quiet.file.getvalue()  # type: ignore[attr-defined]
    assert "Skipped, since their rows cannot be used: broken" in quiet.file.getvalue()  # type: ignore[attr-defined]


def test_the_report_and_the_environment_name_them(ran: Any) -> None:
    out = ran[0].out
    page = (out / "report.html").read_text()
    assert "over 4 of 6 clients." in page and "Left out of the means" in page and "Client broken skipped" in page
    assert "state the labels of its task in data.labels" in page
    environment = json.loads((out / "environment.json").read_text())
    assert list(environment["skipped_clients"]) == ["broken"]


def test_check_names_them_and_a_finished_run_stays_as_it_is(ran: Any) -> None:
    result, _, folder = ran
    console = Console(file=io.StringIO(), width=300)
    render_check(check_settings(small_settings(data__path=str(folder), **SETTINGS)), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "broken is skipped" in text and "client 'mute'" in text and "client 'untested': no test rows" in text
    assert contents_of(resume(result.out)) == result.summaries


def test_what_it_learnt_can_be_loaded_and_exported(ran: Any, tmp_path: Path) -> None:
    run = OpenRun(ran[0].out)
    for client in ("mute", "untested"):
        Exporter(run).client(client, tmp_path / client)
    scores = json.loads((tmp_path / "untested/scores.json").read_text())
    assert scores["num_test"] == 0 and set(scores["scores"].values()) == {None}
    assert json.loads((tmp_path / "mute/scores.json").read_text())["scores"]["folded"] == 1.0


def test_under_sampling_who_was_not_asked_is_named(tmp_path: Path) -> None:
    rows = str(own_rows(tmp_path / "rows"))
    changes: dict[str, Any] = {**SETTINGS, "data__path": rows, "clients_per_round": 2, "eval_every": 2, "baselines": []}
    line = rounds_of(small_run(tmp_path / "r", **changes).out)[-1]
    assert (line["averaged"], line["num_clients"]) == (2, 4)
    assert set(line["left_out"]) == {"one", "two", "three", "four"} - set(line["clients"])
    assert set(line["left_out"].values()) == {"it was not asked in this step"}


def test_over_flower_clients_without_test_rows_train_and_silent_ones_are_named(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
    from flower.nodes import over_memory

    folder = own_rows(tmp_path / "rows")
    (folder / "one/test.jsonl").write_text("")

    def silent(message: Any, reply: Any) -> Any:
        # Ids count down from 900 in the order of the clients: four, one, three, two.
        return (
            None
            if message.metadata.message_type == "evaluate.finish" and message.metadata.dst_node_id == 900
            else reply
        )

    settings = small_settings(**{**SETTINGS, "data__path": str(folder), "baselines": []})
    node = {"data-folders": str(folder), "state-dir": str(tmp_path / "s")}
    found, _ = over_memory(
        settings, tmp_path / "r", prepare=lambda grid: grid.faults.append(silent), hand_over=False, **node
    )
    summary = found["fedlease"]
    assert (summary["averaged"], summary["num_clients"]) == (2, 4)
    assert summary["left_out"]["one"] == UNTESTED
    card = next(path for path in (tmp_path / "s").rglob("README.md") if "one" in path.parts)
    assert "not measured" in card.read_text(), "its node has written its model, without a score"
    assert summary["left_out"]["four"].startswith("it did not answer at the end: did not answer within")
    assert any("'four' is not scored at the end" in warning for warning in summary["warnings"])


def test_over_flower_nodes_whose_rows_cannot_be_used_are_skipped_and_named(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
    from fedlease.errors import ConfigError
    from fedlease.flower.clientapp import client_app
    from fedlease.flower.memory_grid import MemoryGrid
    from fedlease.flower.strategy import FedLeaseStrategy

    folder = own_rows(tmp_path / "rows")
    write(folder / "broken", train=[{"text": "", "label": "no"}])
    nodes = {number: {"data-dir": str(path)} for number, path in enumerate(sorted(folder.iterdir()), 1)}
    for clients, out in (("skip", tmp_path / "skip"), ("require", tmp_path / "require")):
        settings = small_settings(**{**SETTINGS, "data__path": str(folder), "data__clients": clients, "baselines": []})
        strategy = FedLeaseStrategy(settings, out)
        grid = MemoryGrid(client_app(), nodes)
        if clients == "require":
            with pytest.raises(ConfigError, match="client 'broken': its rows cannot be used"):
                strategy.start(grid)
        else:
            strategy.start(grid)
            summary = strategy.summaries["fedlease"]
            assert list(summary["skipped"]) == ["broken"] and summary["num_clients"] == 4
