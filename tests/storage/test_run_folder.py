"""A run folder gets what it lacks, is told when it was changed, and has one writer at a time."""

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from small import own_rows, scores_of, small_run, small_settings

from fedlease.errors import ConfigError, InputError, RunFailedError, RunFolderError
from fedlease.experiments.compare import compare
from fedlease.experiments.experiment import variants_of
from fedlease.files import locked
from fedlease.reporting.run.page import write_report
from fedlease.runs.runner import resume, run_settings
from fedlease.storage.run_files import RunFiles
from fedlease.storage.run_folder import run_lock
from fedlease.storage.summary import RESULT
from fedlease.use.onboard import onboard
from fedlease.use.open_run import OpenRun

CLIENTS = ("one", "two", "three")
SETTINGS: dict[str, Any] = {"baselines": ["fedit"], "rounds": 1}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_rows(tmp_path_factory.mktemp("rows") / "data", CLIENTS, train=4)


@pytest.fixture(scope="module")
def whole(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("whole") / "r", data__path=str(rows), **SETTINGS).out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "r")
    return tmp_path / "r"


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder).as_posix()
        if name.endswith(RESULT):
            found[name] = json.loads(path.read_text())
            found[name] = scores_of(found[name]) if name.endswith("summary.json") else found[name]
    return found


class TestWhatIsLacking:
    def test_a_run_that_ended_before_its_report_gets_it(self, whole: Path, out: Path) -> None:
        (out / "report.html").unlink()
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path != out}
        resume(out)
        assert (out / "report.html").read_bytes() == (whole / "report.html").read_bytes()
        assert all(path.stat().st_mtime_ns == time for path, time in before.items() if ".report" not in path.name)

    def test_a_run_that_ended_before_its_verdict_gets_it(self, whole: Path, out: Path) -> None:
        (out / "report.html").unlink()
        content = json.loads((out / "summary.json").read_text())
        verdict = content.pop("verdict")
        RunFiles(out).write_json("summary.json", content)
        assert resume(out)["fedlease"].content["verdict"] == verdict
        assert results(out) == results(whole)

    @pytest.mark.parametrize("name", ["row_scores.json", "summary.json", "baselines/fedit/row_scores.json"])
    def test_a_result_that_is_missing_is_made_again(self, name: str, whole: Path, out: Path) -> None:
        (out / name).unlink()
        resume(out)
        assert results(out) == results(whole)

    def test_a_report_that_cannot_be_written_is_told_and_written_later(
        self, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (out / "report.html").unlink()
        real = os.replace

        def full(source: Any, target: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(
            RunFailedError,
            match=rf"the report of {out} was not written: the disk is full: .*; make room, then: fedlease report ",
        ):
            resume(out)
        monkeypatch.setattr(os, "replace", real)
        resume(out)
        assert (out / "report.html").is_file()


@pytest.mark.parametrize("write", [1, 4, 9, 17, 24, 31])
def test_a_disk_that_is_full_at_any_write_is_one_sentence_and_the_run_goes_on(
    write: int, rows: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, out, count = os.fsync, tmp_path / "r", 0

    def full(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count >= write:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((RunFailedError, InputError)) as caught:
        small_run(out, data__path=str(rows), **SETTINGS)
    said = str(caught.value)
    assert ("\n" not in said and re.search("disk is full|No space left", said) and "room" in said) or "resume" in said
    monkeypatch.setattr(os, "fsync", real)
    if (out / "config.yaml").is_file():
        resume(out)
    else:
        small_run(out, data__path=str(rows), **SETTINGS)
    assert results(out) == results(whole)
    assert not list(out.rglob("*.tmp"))


class TestWhatWasChanged:
    def test_settings_of_a_finished_run_are_told_with_both_values(self, out: Path) -> None:
        path = out / "config.yaml"
        text = path.read_text()
        path.write_text(text.replace("\nrounds: 1\n", "\nrounds: 5\n").replace("seed: 0\n", "seed: 3\n", 1))
        assert path.read_text() != text
        with pytest.raises(RunFolderError) as caught:
            resume(out)
        assert str(caught.value) == (
            f"{path} was changed since the run began: seed is 3, and was 0; rounds is 5, and was 1; put it back, or "
            "begin a new run with it"
        )
        path.write_text(text)
        resume(out)

    def test_where_rows_and_machine_are_now_may_be_said(self, rows: Path, out: Path, tmp_path: Path) -> None:
        shutil.copytree(rows, tmp_path / "moved")
        path = out / "config.yaml"
        path.write_text(path.read_text().replace(str(rows), str(tmp_path / "moved")))
        (out / "row_scores.json").unlink()
        resume(out)
        assert (out / "row_scores.json").is_file()

    def test_what_is_left_of_a_run_is_not_begun_again(self, rows: Path, out: Path) -> None:
        (out / "config.yaml").unlink()
        with pytest.raises(RunFolderError, match=r"holds a part of a run, state, without config\.yaml"):
            small_run(out, data__path=str(rows), **SETTINGS)
        assert (out / "state" / "manifest.json").is_file()


class TestOneWriter:
    def test_a_folder_in_use_is_refused_by_whatever_writes_and_read_by_the_others(self, rows: Path, out: Path) -> None:
        (out / "row_scores.json").unlink()
        with run_lock(out):
            run = OpenRun(out)
            run.load("one")
            write_report(out)
            with pytest.raises(RunFolderError, match=r"^.* is in use: another process writes its run now; "):
                resume(out)
            with pytest.raises(RunFolderError, match="is in use"):
                onboard(run, "new", rows / "one")
        resume(out)

    def test_two_that_begin_in_one_folder(self, rows: Path, tmp_path: Path) -> None:
        out = tmp_path / "r"
        with run_lock(out), pytest.raises(RunFolderError, match="is in use"):
            run_settings(small_settings(data__path=str(rows), **SETTINGS), out)
        assert not (out / "config.yaml").exists()

    def test_two_comparisons_in_one_folder(self, rows: Path, tmp_path: Path) -> None:
        settings = small_settings(data__path=str(rows), **SETTINGS)
        with locked(tmp_path / "c", "comparison"), pytest.raises(RunFolderError, match="writes its comparison now"):
            compare(settings, variants_of(["fedit", "local"]), [0], tmp_path / "c")

    def test_the_same_id_is_onboarded_once(self, out: Path, tmp_path: Path) -> None:
        data = own_rows(tmp_path / "more", ("new",), train=4) / "new"
        first, second = OpenRun(out), OpenRun(out)
        onboard(first, "new", data, epochs=0)
        with pytest.raises(ConfigError, match="the run has a client 'new' already, received 'NEW'"):
            onboard(second, "NEW", data, epochs=0)
        assert [path.name for path in (out / "onboarded").iterdir()] == ["new"]
