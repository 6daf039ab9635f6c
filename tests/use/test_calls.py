"""What commands do with a finished run, as calls of Python."""

import inspect
import json
from pathlib import Path

import pytest
from small import SMALL, FinishedRuns, own_rows

import fedlease
from fedlease.errors import ConfigError, DataError, RunFolderError

CLIENT = "planted-0-0"
TEXTS = ["zib mo", "lum zib"]


@pytest.fixture(scope="module")
def run(finished: FinishedRuns) -> Path:
    return finished(baselines=[]).out


def test_texts_dicts_and_a_file_give_the_same_predictions(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    found = fedlease.predict(run, CLIENT, TEXTS)
    assert found == fedlease.predict(run, CLIENT, [{"text": text} for text in TEXTS])
    assert found == fedlease.predict(str(run), CLIENT, file) == fedlease.predict(run, CLIENT, str(file))
    for row in found:
        assert row["prediction"] in row["probabilities"]
        assert row["probability"] == max(row["probabilities"].values())
    assert fedlease.predict(run, CLIENT, []) == []


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([{"texts": "a"}], "data: .*column 'text'"),
        ([{"text": ""}], "data, row 1, column 'text': a text must not be empty"),
        (["a", 1], "a row must be a dict"),
        (5, "rows must be"),
        ("gone.csv", "gone.csv: no such file"),
    ],
)
def test_rows_that_cannot_be_used_are_told(rows: object, fault: str, run: Path) -> None:
    with pytest.raises(DataError, match=fault):
        fedlease.predict(run, CLIENT, rows)


def test_an_export_is_what_the_command_writes(run: Path, tmp_path: Path) -> None:
    out = fedlease.export(run, tmp_path / "a", client=CLIENT, scores=False)
    assert out == tmp_path / "a" and (out / "adapter_config.json").is_file()
    assert (fedlease.export(run, tmp_path / "e", expert=0) / "adapter_model.safetensors").is_file()
    everything = fedlease.export(run, tmp_path / "all", scores=False)
    assert {path.name for path in everything.iterdir()} >= {"expert-0", f"client-{CLIENT}"}
    with pytest.raises(ConfigError, match="at most one of client and expert can be given, received 'x' and 0"):
        fedlease.export(run, tmp_path / "x", client="x", expert=0)


def test_a_newcomer_is_placed_and_its_progress_shown(
    finished: FinishedRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished.copy(tmp_path / "run", baselines=[])
    rows = own_rows(tmp_path / "rows", ("new",))
    found = fedlease.onboard(folder, "new", rows / "new", epochs=1)
    assert found.folder.is_relative_to(folder) and "after 1 local epoch" in found.scores
    told = capsys.readouterr().err
    assert told.startswith(f"Run folder {folder}: loading libraries and model\n") and "onboarding" in told
    fedlease.onboard(folder, "newer", rows / "new", epochs=0, progress=False)
    assert capsys.readouterr().err == ""
    with pytest.raises(DataError, match="data: must be the path of the newcomer's files, received a list"):
        fedlease.onboard(folder, "newest", [{"text": "a"}])  # type: ignore[arg-type]


def test_a_comparison_takes_what_a_run_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {**SMALL, "data.clients_per_task": 1, "rounds": 1}
    content = fedlease.compare({"preset": "smoke", **changes}, ["fedit", "local"], [0], out=tmp_path / "c")
    assert json.loads(json.dumps(content)) == json.loads((tmp_path / "c/compare.json").read_text())
    told = capsys.readouterr().err
    assert "fedit, seed 0: runs\n" in told and "fedit: begins\n" in told and "local, seed 0: mean accuracy" in told
    again = fedlease.compare(
        {"preset": "smoke", **changes}, ["fedit", "local"], [0], out=tmp_path / "c", progress=False
    )
    assert (again, capsys.readouterr().err) == (content, "")
    with pytest.raises(ConfigError, match="methods: must be a list of names, received 'fedit'"):
        fedlease.compare(methods="fedit")


def test_a_folder_that_is_no_run_is_refused_by_all(tmp_path: Path) -> None:
    for call in (
        lambda: fedlease.predict(tmp_path, "a", ["x"]),
        lambda: fedlease.export(tmp_path, tmp_path / "o"),
        lambda: fedlease.onboard(tmp_path, "a", tmp_path),
        lambda: fedlease.resume(tmp_path),
    ):
        with pytest.raises(RunFolderError, match="is not a run folder"):
            call()


def test_every_top_level_name_is_documented() -> None:
    for name in fedlease.__all__:
        value = getattr(fedlease, name)
        if inspect.isfunction(value):
            assert (inspect.getdoc(value) or "").count("\n") > 2, name
