"""What the command line says of itself."""

from typing import Any

import pytest
from typer.testing import CliRunner

from fedlease.cli.main import app

COMMANDS = [info.name or info.callback.__name__ for info in app.registered_commands if info.callback is not None]


def said(*words: str) -> Any:
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, words)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_is_plain_text(command: str) -> None:
    done = said(command, "--help")
    assert done.exit_code == 0
    assert done.stdout.startswith("Usage: ")
    # typer writes "\\[required]" where it has escaped for a renderer that is not used.
    assert "\\" not in done.stdout


def test_what_must_be_given_is_marked() -> None:
    assert "  DIR   [required]\n  FILE  [required]\n" in said("predict", "--help").stdout
    assert "--client ID    A client of the run.  [required]\n" in said("predict", "--help").stdout


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("runn", "No such command 'runn'; did you mean 'run'?"),
        ("predic", "No such command 'predic'; did you mean 'predict'?"),
        ("zzzz", "No such command 'zzzz'"),
    ],
)
def test_a_command_that_is_none_is_told_with_one_suggestion(word: str, sentence: str) -> None:
    done = said(word)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == f"Error: {sentence}"
