"""Runs on rows that Python code has: the folder says so, and what goes on later needs the same rows."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small import FinishedRuns, own_rows, scores_of, small_settings, tensors_of

import fedlease
from fedlease.errors import ConfigError, InputError, RunFolderError
from fedlease.experiments.compare import compare
from fedlease.experiments.experiment import variants_of
from fedlease.server.events import StepFinished
from fedlease.use.export import Exporter
from fedlease.use.open_run import OpenRun

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "own-data.md"
SETTINGS = small_settings(rounds=1, baselines=[])


def rows_of(client: str, count: int = 8) -> list[dict[str, Any]]:
    return [
        {"text": f"{client} says {'yes' if i % 2 else 'no'} {i}", "label": ["no", "yes"][i % 2]} for i in range(count)
    ]


ROWS = {client: (rows_of(client), rows_of(client, 4)) for client in ("one", "two", "three", "four")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fedlease.RunResult:
    return fedlease.run(SETTINGS, data=ROWS, out=tmp_path_factory.mktemp("memory") / "run")


def test_a_run_is_that_of_the_same_rows_in_files(run: fedlease.RunResult, tmp_path: Path) -> None:
    files = fedlease.run(SETTINGS, data=own_rows(tmp_path / "rows"), out=tmp_path / "run")
    assert tensors_of(files.out) == tensors_of(run.out)
    assert scores_of(files.summary) == scores_of(run.summary)


def test_a_notebook_shows_where_a_run_is_and_not_every_number_of_it(run: fedlease.RunResult) -> None:
    assert repr(run) == f"RunResult(out={run.out!r})"


def test_the_folder_says_that_rows_were_in_memory_and_has_their_fingerprints(run: fedlease.RunResult) -> None:
    assert "source: memory" in (run.out / "config.yaml").read_text()
    clients = json.loads((run.out / "clients.json").read_text())
    marks = [json.loads((run.out / "environment.json").read_text())["data_fingerprint"]]
    marks += [clients[client]["fingerprint"] for client in ROWS]
    assert len({*marks}) == 5 and all(re.fullmatch("[0-9a-f]{64}", mark) for mark in marks)


class StopError(Exception):
    """Stands for whatever ends a run half-way."""


def stopped(out: Path) -> Path:
    def stop(event: object) -> None:
        if isinstance(event, StepFinished):
            raise StopError

    with pytest.raises(StopError):
        fedlease.run(SETTINGS, data=ROWS, out=out, listeners=[stop])
    return out


def test_resuming_needs_the_same_rows_and_refuses_others(run: fedlease.RunResult, tmp_path: Path) -> None:
    out = stopped(tmp_path / "run")
    with pytest.raises(RunFolderError) as error:
        fedlease.resume(out)
    assert str(error.value) == (
        f"{out}: the rows of this run were in memory, not in files; pass the same rows again in Python, as in "
        f"fedlease.resume('{out}', data=ROWS)"
    )
    with pytest.raises(RunFolderError, match=r"the rows have changed since the start of the run, for 'one'$"):
        fedlease.resume(out, data={**ROWS, "one": (rows_of("one", 6), rows_of("one", 4))})
    # The same rows in another form are the same rows.
    again = {client: tuple(pd.DataFrame(rows) for rows in pair) for client, pair in ROWS.items()}
    assert tensors_of(fedlease.resume(out, data=again).out) == tensors_of(run.out)
    # A finished run needs nothing.
    assert fedlease.resume(out).summary["mean"] == run.summary["mean"]


def test_rows_in_memory_are_refused_by_a_run_of_files(finished: FinishedRuns, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.path: is not read when data\.source is 'memory'; leave one"):
        fedlease.run({"data.path": str(tmp_path)}, data=ROWS)


def test_a_path_in_the_place_of_rows_is_the_path_of_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.path: '.*nothing' does not exist"):
        fedlease.run("smoke", data=tmp_path / "nothing", out=tmp_path / "run")


def test_a_check_counts_the_rows_in_memory() -> None:
    report = fedlease.check(SETTINGS, data=ROWS)
    assert report.train_rows == dict.fromkeys(sorted(ROWS), 8)
    with pytest.raises(InputError, match="client 'one': no train rows in data"):
        fedlease.check("smoke", data={**ROWS, "one": []})


def test_an_export_measures_on_rows_that_are_passed_again(run: fedlease.RunResult, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"were in memory, so nothing can be measured: use --no-scores, or"):
        Exporter(OpenRun(run.out)).client("one", tmp_path / "a")
    folder = Exporter(OpenRun(run.out), data=ROWS).client("one", tmp_path / "b")
    assert (
        json.loads((folder / "scores.json").read_text())["scores"]["routed"]
        == run.summary["per_client"]["one"]["accuracy"]
    )


def test_a_comparison_takes_rows_in_memory_and_refuses_others_later(tmp_path: Path) -> None:
    settings = small_settings(rounds=1, baselines=[], data__source="memory")
    content = compare(settings, variants_of(["fedit", "local"]), [0], tmp_path, data=ROWS)
    assert [*content["variants"]] == ["fedit", "local"] and content["num_clients"] == 4
    with pytest.raises(RunFolderError, match="the rows have changed since this run began"):
        other = {**ROWS, "one": (rows_of("one", 6), rows_of("one", 4))}
        compare(settings, variants_of(["fedit", "local"]), [0], tmp_path, data=other)


def test_the_example_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[0]
    assert len([line for line in example.splitlines() if line]) <= 10
    exec(compile(example, str(GUIDE), "exec"), {})
    assert (tmp_path / "runs" / "triage" / "report.html").exists()
