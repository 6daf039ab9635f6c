"""The application object, and options and helpers that several commands share."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand, TyperGroup

from fedlease._version import __version__

if TYPE_CHECKING:
    import click


__all__ = [
    "INTERRUPTED",
    "Client",
    "Command",
    "Device",
    "Group",
    "Interrupted",
    "Json",
    "MethodName",
    "Quiet",
    "RunFolder",
    "app",
    "comma_separated",
    "progress",
    "seed_numbers",
    "stdout_for_json",
]

INTERRUPTED = 130
"""Exit code after Ctrl-C, which is also typer's."""


class Command(TyperCommand):
    """A command whose help is printed without typer's escapes of brackets, which are meant for another renderer."""

    def format_help(self, ctx: "click.Context", formatter: "click.HelpFormatter") -> None:
        """Called by click."""
        super().format_help(ctx, formatter)
        formatter.buffer = [text.replace("\\[", "[") for text in formatter.buffer]


class Group(TyperGroup):
    """A group that suggests one command for an unknown name, instead of click's and typer's suggestions."""

    def resolve_command(
        self, ctx: "click.Context", args: list[str]
    ) -> "tuple[str | None, click.Command | None, list[str]]":
        """Called by click."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            from fedlease.config.faults import nearest

            ctx.fail(f"No such command {name!r}{nearest(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="fedlease",
    cls=Group,
    help="Fine-tune language models across organisations that share neither data nor task.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Quiet = Annotated[bool, typer.Option("--quiet", help="Show only the result, no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object; all other output goes to standard error.")]
RunFolder = Annotated[Path, typer.Argument(help="A run folder.", metavar="DIR")]
Client = Annotated[str, typer.Option("--client", metavar="ID", help="A client of the run.")]
MethodName = Annotated[str | None, typer.Option("--method", help="A method of the run; default: the main one.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...; default: the run's, else the CPU.")]


class Interrupted(Exception):
    """Ctrl-C during a run; typer would turn a KeyboardInterrupt into an exit without a message.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(str(folder))


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"fedlease {__version__}")
        raise typer.Exit


def stdout_for_json(json_: bool) -> contextlib.AbstractContextManager[object]:
    """Redirects the output of libraries to standard error, so that standard output has only the JSON object."""
    return contextlib.redirect_stdout(sys.stderr) if json_ else contextlib.nullcontext()


def comma_separated(text: str) -> list[str]:
    """``"a, b"`` -> ``["a", "b"]``."""
    return [word.strip() for word in text.split(",") if word.strip()]


def seed_numbers(text: str) -> list[int]:
    """``"0,1"`` -> ``[0, 1]``.

    Raises:
        ConfigError: the text has anything but whole numbers.
    """
    from fedlease.errors import ConfigError

    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ConfigError(f"seeds: must be whole numbers with commas between, received {text!r}") from None


@contextlib.contextmanager
def progress(quiet: bool, folder: Path | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Shows a progress bar per description on standard error, if that is a terminal.

    Yields a function of description, steps done and steps in total. Until its first call, ``loading`` is shown, so slow
    imports belong into the context.

    Args:
        quiet: whether to show nothing.
        folder: run folder that is checked before anything is loaded.

    Raises:
        RunFolderError: ``folder`` is not a run folder, or is damaged.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    if folder is not None:
        from fedlease.storage.run_folder import read_settings

        read_settings(folder)
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda description, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    loading, bars = console.status("loading"), Progress(*columns, console=console)
    loading.start()

    def show(description: str, done: int, total: int) -> None:
        loading.stop()
        bars.start()
        if description not in tasks:
            tasks[description] = bars.add_task(description, total=total)
        bars.update(tasks[description], completed=done, total=total)

    try:
        yield show
    finally:
        loading.stop()
        bars.stop()
