"""What the command line says of itself."""

import pkgutil
import tomllib
from pathlib import Path

import pytest
from cli.shell import Shell

from fedlease.cli.main import app, main

COMMANDS = [info.name or info.callback.__name__ for info in app.registered_commands if info.callback is not None]


def test_help_lists_every_command_and_each_helps_in_plain_text(shell: Shell) -> None:
    overview = shell("--help").out
    assert len(COMMANDS) > 10 and not [command for command in COMMANDS if f"  {command} " not in overview]
    for command in COMMANDS:
        done = shell(command, "--help")
        assert (done.code, done.err) == (0, "") and done.out.startswith("Usage: "), command
        # typer writes "\\[required]" where it has escaped for a renderer that is not used.
        assert "\\" not in done.out, command


def test_the_installed_command_is_main() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert pkgutil.resolve_name(project["scripts"]["fedlease"]) is main


def test_what_must_be_given_is_marked(shell: Shell) -> None:
    said = shell("predict", "--help").out
    assert "  DIR   [required]\n  FILE  [required]\n" in said
    assert "--client ID    A client of the run.  [required]\n" in said


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("runn", "No such command 'runn'; did you mean 'run'?"),
        ("predic", "No such command 'predic'; did you mean 'predict'?"),
        ("zzzz", "No such command 'zzzz'"),
    ],
)
def test_a_command_that_is_none_is_told_with_one_suggestion(word: str, sentence: str, shell: Shell) -> None:
    done = shell(word)
    assert done.code == 2
    assert done.err.splitlines()[-1] == f"Error: {sentence}"
