"""The command line as a user meets it: words in, an exit code and two streams out."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from fedlease.cli.main import main
from fedlease.reporting.quiet import QUIET


class Done(NamedTuple):
    code: int
    out: str
    err: str


Shell = Callable[..., Done]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """Runs the installed command's entry point in this process and in an empty folder."""
    monkeypatch.setenv("COLUMNS", "200")
    for key, value in QUIET.items():
        # main() sets what is not set; monkeypatch takes it back.
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["fedlease", *map(str, words)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capfd.readouterr())

    return run
