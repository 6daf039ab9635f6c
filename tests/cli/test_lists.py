"""What lists settings and completes words."""

import json
import os
import subprocess
import sys

import pytest
from cli.shell import Shell

from fedlease.cli.main import app
from fedlease.config.faults import setting_names
from fedlease.config.settings import Settings


def test_settings_are_listed_with_default_values_and_meaning(shell: Shell) -> None:
    done = shell("settings", "train.lr_schedule")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[:2] == ["train.lr_schedule = constant", "    constant, linear"]
    everything = shell("settings").out
    assert [key for key in setting_names(Settings) if f"{key} = " not in everything] == []


def test_no_line_is_wider_than_the_terminal(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert [line for line in shell("settings").out.splitlines() if len(line) > 80 and " = " not in line] == []


def test_settings_as_json_are_a_list_of_objects(shell: Shell) -> None:
    (row,) = json.loads(shell("settings", "clip_norm", "--json").out)
    assert row["key"] == "train.clip_norm" and row["default"] == "1.0"
    assert {*row} == {"key", "default", "values", "meaning"}


def test_a_word_that_no_setting_has_is_one_line_and_code_2(shell: Shell) -> None:
    done = shell("settings", "zzz")
    assert (done.code, done.out) == (2, "") and len(done.err.splitlines()) == 1


def test_every_command_helps_by_h(shell: Shell) -> None:
    assert shell("-h").out == shell("--help").out
    for info in app.registered_commands:
        name = info.name or (info.callback.__name__ if info.callback else "")
        assert shell(name, "-h").out.startswith(f"Usage: fedlease {name} "), name


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("fedlease res", ["resume"]),
        ("fedlease run --preset paper", ["paper-nlg", "paper-nlu"]),
        ("fedlease run --set train.lr", ["train.lr=", "train.lr_schedule="]),
    ],
)
def test_the_shell_completes_commands_presets_and_settings(words: str, completed: list[str]) -> None:
    asked = {"_FEDLEASE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    code = "import sys; sys.argv = ['fedlease']; from fedlease.cli.main import main; main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == completed
