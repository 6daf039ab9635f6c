"""How the command line ends when a run does not: interrupted, failed, or by a fault of our own."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cli.shell import Done, Shell

from fedlease import __version__
from fedlease.errors import RunFailedError
from fedlease.runs import runner
from fedlease.storage.summary import Summary

Fake = Callable[..., Any]


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch, shell: Shell) -> Shell:
    """Runs ``fedlease run`` with the given function instead of the real run."""

    def ended(fake: Fake, *words: str) -> Done:
        monkeypatch.setattr(runner, "run_settings", fake)
        return shell("run", "--preset", "smoke", "--quiet", *words)

    return ended


def raising(error: BaseException, out: Path | None = None) -> Fake:
    def fake(*_: object, **__: object) -> NoReturn:
        if out is not None:
            out.mkdir()
            (out / "config.yaml").touch()
        raise error

    return fake


def test_ctrl_c_during_a_run_says_how_to_go_on(end: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, printed, said = end(raising(KeyboardInterrupt(), out), "--out", str(out))
    assert (code, printed) == (130, "")
    assert said == f"fedlease: interrupted; go on with: fedlease resume {out}\n"


def test_ctrl_c_before_the_run_folder_is_there_names_no_folder(end: Any, tmp_path: Path) -> None:
    code, _, said = end(raising(KeyboardInterrupt()), "--out", str(tmp_path / "run"))
    assert (code, said) == (130, "fedlease: interrupted; nothing begun\n")


def test_ctrl_c_outside_a_run_is_one_line(monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
    monkeypatch.setattr("fedlease.config.settings.preset_names", raising(KeyboardInterrupt()))
    assert shell("presets") == (130, "", "fedlease: interrupted\n")


def test_a_failed_run_is_one_line_whatever_its_reason_holds(end: Any) -> None:
    code, _, said = end(raising(RunFailedError("round 2: disk full\nat state/")))
    assert (code, said) == (1, "fedlease: the run failed: round 2: disk full at state/\n")


def test_no_sentence_steers_a_terminal(end: Any) -> None:
    code, _, said = end(raising(RunFailedError("node says \x1b[2J\x1b]0;title\x07 \u202eabc")))
    mark = "\N{REPLACEMENT CHARACTER}"
    assert (code, said) == (1, f"fedlease: the run failed: node says {mark}[2J{mark}]0;title{mark} {mark}abc\n")


def test_our_own_fault_keeps_its_traceback_and_asks_for_a_report(end: Any) -> None:
    code, _, said = end(raising(ZeroDivisionError("planted")))
    assert code == 1
    *trace, last = said.splitlines()
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1] == "ZeroDivisionError: planted"
    assert last == f"fedlease: this is a fault of fedlease {__version__}: please report it with the lines above"


def test_what_a_library_prints_does_not_get_into_the_json(end: Any, tmp_path: Path) -> None:
    def chatty(_: object, out: Path, *__: object, **___: object) -> dict[str, Summary]:
        print("a library says hello")
        return {"fedlease": Summary(method="fedlease", metric="accuracy", per_client={}, mean=0.5)}

    code, printed, said = end(chatty, "--json", "--out", str(tmp_path / "run"))
    assert code == 0
    summary = {"method": "fedlease", "metric": "accuracy", "per_client": {}, "mean": 0.5}
    assert json.loads(printed) == {
        "out": str(tmp_path / "run"),
        "verdict": None,
        "summaries": {"fedlease": summary},
    }
    assert said == "a library says hello\n"


def test_a_limit_of_the_machine_is_one_line(end: Any, tmp_path: Path) -> None:
    code, printed, said = end(raising(OSError(errno.ENOSPC, "No space", "x/y")), "--out", str(tmp_path / "run"))
    assert (code, printed) == (1, "")
    assert said == "fedlease: the command failed: the disk is full: x/y; make room and run it again\n"
    code, _, said = end(raising(MemoryError()), "--out", str(tmp_path / "run"))
    assert (code, said) == (1, "fedlease: the command failed: memory is used up; make room and run it again\n")
