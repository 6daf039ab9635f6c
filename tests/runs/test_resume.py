"""A run that is killed at any moment and resumed ends in the same tensors as one that never was."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import begin
from small import SMALL, FinishedRuns, own_rows, rounds_of, scores_of, small_run, tensors_of

from fedlease.errors import RunFailedError, RunFolderError
from fedlease.runs.runner import resume
from fedlease.storage import run_files
from fedlease.storage.run_files import sealed

METHODS = ("fedlease", "local")
CHANGES: dict[str, Any] = {"baselines": ["local"], "data.clients_per_task": 1}


def folder_of(out: Path, method: str) -> Path:
    return out if method == "fedlease" else out / "baselines" / method


@pytest.fixture(scope="module")
def whole(finished: FinishedRuns) -> Path:
    """A run that nothing interrupts."""
    return finished(**CHANGES).out


def assert_same(out: Path, whole: Path) -> None:
    for method in METHODS:
        a, b = folder_of(out, method), folder_of(whole, method)
        assert tensors_of(a) == tensors_of(b), method
        assert scores_of(json.loads((a / "summary.json").read_text())) == scores_of(
            json.loads((b / "summary.json").read_text())
        )
        assert [r["step"] for r in rounds_of(a)] == [r["step"] for r in rounds_of(b)]
    assert not list(out.rglob("*.tmp"))


class Crash(BaseException):
    """Nothing in the product catches this: it stands for a kill."""


@pytest.mark.parametrize("moment", range(1, 84, 11))
def test_a_crash_at_any_write_is_survived(
    moment: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.replace, iter(range(1, 10_000))

    def replace(source: Any, target: Any) -> None:
        if next(calls) == moment:
            raise Crash
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    out = tmp_path / "r"
    with pytest.raises(Crash):
        small_run(out, **CHANGES)
    monkeypatch.setattr(os, "replace", real)
    if not (out / "config.yaml").exists():
        with pytest.raises(RunFolderError, match="is not a run folder"):
            resume(out)
        shutil.rmtree(out, ignore_errors=True)
        small_run(out, **CHANGES)
    else:
        resume(out)
    assert_same(out, whole)


@pytest.mark.slow
def test_kill_9_at_a_random_moment_is_survived(whole: Path, tmp_path: Path) -> None:
    out, step = tmp_path / "r", random.randrange(3)
    sets = [f"--set={key}={json.dumps(value)}" for key, value in {**SMALL, **CHANGES}.items()]
    running = begin("run", "--preset", "smoke", "--out", out, "--quiet", *sets, streams=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and running.process.is_alive() and steps_behind(out) < step:
            time.sleep(0.01)
        time.sleep(random.random() * 0.3)
    finally:
        running.process.kill()
    assert running.ended(30) == -signal.SIGKILL, f"the run ended before it could be killed: {running.err.read_text()}"
    assert steps_behind(out) >= step, running.err.read_text()
    if not (out / "config.yaml").exists():
        pytest.fail("killed before the folder was made: the moment is chosen after that")
    resume(out)
    assert_same(out, whole)


def steps_behind(out: Path) -> int:
    """Completed steps of the main method, -1 before the first manifest."""
    try:
        return int(json.loads((out / "state" / "manifest.json").read_text())["step"])
    except (OSError, ValueError):
        return -1


def test_resuming_a_finished_run_changes_nothing(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert list(resume(whole)) == list(METHODS)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_resume_refuses_rows_that_changed(tmp_path: Path) -> None:
    data = own_rows(tmp_path / "data")
    out = tmp_path / "r"
    small_run(out, data__path=str(data), baselines=(), rounds=1)
    (out / "summary.json").unlink()
    with (data / "one" / "train.jsonl").open("a") as file:
        file.write('\n{"text": "one more", "label": "yes"}')
    with pytest.raises(RunFolderError, match="the rows have changed since the start of the run"):
        resume(out)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest", "digit", "escape"])
def test_a_damaged_folder_is_named_and_not_used(damage: str, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    shutil.copytree(whole, out)
    (out / "summary.json").unlink()
    manifest_path = out / "state" / "manifest.json"
    manifest = json.loads(manifest_path.read_text())
    state = out / "state" / manifest["state"]["file"]
    if damage == "flip":
        blob = bytearray(state.read_bytes())
        blob[-1] ^= 1
        state.write_bytes(blob)
        expected = "is damaged: its SHA-256 is not the one in the manifest"
    elif damage == "truncate":
        state.write_bytes(state.read_bytes()[:100])
        expected = "is damaged"
    elif damage == "delete":
        state.unlink()
        expected = "is named by the manifest and cannot be read"
    elif damage == "manifest":
        manifest_path.write_text('{"step": 1')
        expected = r"manifest\.json is damaged"
    elif damage == "digit":
        manifest_path.write_text(json.dumps({**manifest, "step": manifest["step"] - 1}))
        expected = r"manifest\.json is damaged: its SHA-256 is not the one that it states"
    else:
        del manifest["sha256"]
        entry = {"file": "../config.yaml", "sha256": "0" * 64}
        manifest_path.write_text(json.dumps(sealed({**manifest, "state": entry})))
        expected = r"manifest\.json is damaged: state\.file string should match pattern"
    with pytest.raises(RunFolderError, match=expected):
        resume(out)


def test_a_full_disk_keeps_the_last_good_step(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = run_files.write_atomically

    def full(path: Path, blob: bytes) -> None:
        if path.name == "manifest.json" and json.loads(blob)["step"] == 2:
            raise OSError(28, "No space left on device")
        real(path, blob)

    monkeypatch.setattr(run_files, "write_atomically", full)
    out = tmp_path / "r"
    with pytest.raises(RunFailedError, match=r"step 2 of fedlease could not be written to .*No space left on device"):
        small_run(out, **CHANGES)
    assert json.loads((out / "state" / "manifest.json").read_text())["step"] == 1
    monkeypatch.setattr(run_files, "write_atomically", real)
    resume(out)
    assert_same(out, whole)


@pytest.mark.parametrize("content", [None, "empty", "text"])
def test_a_folder_that_is_no_run_is_named(content: str | None, tmp_path: Path) -> None:
    out = tmp_path / "r"
    if content is not None:
        out.mkdir()
    if content == "text":
        (out / "notes.txt").write_text("hello")
    with pytest.raises(RunFolderError, match=r"is not a run folder: it holds no config\.yaml"):
        resume(out)


def test_every_damaged_setting_is_named(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    shutil.copytree(whole, out)
    config = yaml.safe_load((out / "config.yaml").read_text())
    (out / "config.yaml").write_text(yaml.safe_dump({**config, "rounds": -3, "seed": "one"}))
    with pytest.raises(RunFolderError) as caught:
        resume(out)
    assert len(caught.value.faults) == 2
    for fault, name in zip(sorted(caught.value.faults), ("rounds", "seed"), strict=True):
        assert fault.startswith(f"{out}/config.yaml is damaged: {name}: ")
