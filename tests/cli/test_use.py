"""Commands on a finished run: what they print, where, and exit code 2 with one line for wrong input."""

import json
from pathlib import Path

import pytest
from cli.shell import Done, Shell
from reporting.comparisons import compared
from reporting.report_folders import put
from small import FinishedRuns


@pytest.fixture(scope="module")
def out(finished: FinishedRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished.copy(tmp_path_factory.mktemp("run") / "r")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "zib"}\n{"text": "mab nee"}\n')
    return file


def one_line(done: Done) -> str:
    assert done.code == 2
    assert done.out == ""
    lines = done.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("fedlease: ")
    return lines[0]


def test_predict_prints_json_lines_alone(shell: Shell, out: Path, rows: Path) -> None:
    done = shell("predict", out, rows, "--client", "planted-0-0")
    assert done.code == 0
    assert [json.loads(line)["text"] for line in done.out.splitlines()] == ["zib", "mab nee"]


def test_predict_writes_a_file_and_names_it(shell: Shell, out: Path, rows: Path, tmp_path: Path) -> None:
    done = shell("predict", out, rows, "--client", "planted-0-0", "--out", tmp_path / "p.csv", "--quiet")
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "p.csv"))
    assert (tmp_path / "p.csv").read_text().startswith("text,prediction,probability,")


def test_export_names_its_folder(shell: Shell, out: Path, tmp_path: Path) -> None:
    done = shell("export", out, tmp_path / "x", "--client", "planted-0-0", "--no-scores", "--mixture", "own")
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "x"))
    assert json.loads((tmp_path / "x" / "scores.json").read_text())["mixture"] == "own"
    done = shell("export", out, tmp_path / "all", "--all", "--no-scores")
    assert done.code == 0 and (tmp_path / "all" / "expert-0" / "adapter_config.json").is_file()


def test_onboard_shows_distances_and_scores(shell: Shell, finished: FinishedRuns, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "r")
    for split in ("train", "test"):
        lines = [json.dumps({"text": f"zib {i}", "label": i % 2}) for i in range(6)]
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / f"{split}.jsonl").write_text("\n".join(lines))
    done = shell("onboard", out, "--client", "late", "--data", tmp_path / "new", "--epochs", "1")
    assert done.code == 0
    assert "Client late is placed with expert" in done.out
    assert "after 1 local epoch" in done.out and "own warm-up" in done.out
    assert one_line(shell("onboard", out, "--client", "late", "--data", tmp_path / "new")).endswith(
        "the run has a client 'late' already, received 'late'"
    )
    done = shell("onboard", out, "--client", "later", "--data", tmp_path / "new", "--epochs", "0", "--json")
    assert json.loads(done.out)["client"] == "later"


def test_report_names_its_page(shell: Shell, out: Path) -> None:
    done = shell("report", out)
    assert (done.code, done.out.strip()) == (0, str(out / "report.html"))
    assert (out / "report.html").read_text(encoding="utf-8").lower().startswith("<!doctype html>")


def test_report_of_a_comparison_names_its_page(shell: Shell, tmp_path: Path) -> None:
    put(tmp_path / "compare.json", compared())
    done = shell("report", tmp_path)
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "compare.html"))


def test_wrong_input_is_one_line_and_exit_code_2(shell: Shell, out: Path, rows: Path, tmp_path: Path) -> None:
    assert "received 'nobody'" in one_line(shell("predict", out, rows, "--client", "nobody"))
    assert "is not a run folder" in one_line(shell("predict", tmp_path, rows, "--client", "x"))
    assert "is not a run folder" in one_line(shell("report", tmp_path))
    assert "is not a run folder" in one_line(shell("serve", tmp_path))
    (tmp_path / "bad.jsonl").write_text('{"note": "x"}\n')
    assert "no column 'text'" in one_line(shell("predict", out, tmp_path / "bad.jsonl", "--client", "planted-0-0"))
    assert "exactly one of --client, --expert and --all" in one_line(shell("export", out, tmp_path / "x"))
    assert "exactly one" in one_line(shell("export", out, tmp_path / "x", "--all", "--expert", "0"))
    assert "received 99" in one_line(shell("export", out, tmp_path / "x", "--expert", "99", "--no-scores"))
    assert "exists; choose another folder" in one_line(shell("export", out, tmp_path, "--all"))
    assert not (tmp_path / "x").exists()
