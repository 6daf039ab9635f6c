"""The application object, and what several commands have in common."""

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
"""Exit code, also typer's, of what Ctrl-C ended."""


class Command(TyperCommand):
    """Prints its help as it is: typer escapes brackets for a renderer that is not in use here."""

    def format_help(self, ctx: "click.Context", formatter: "click.HelpFormatter") -> None:
        """Called by click."""
        super().format_help(ctx, formatter)
        formatter.buffer = [text.replace("\\[", "[") for text in formatter.buffer]


class Group(TyperGroup):
    """Suggests a command once; click and typer each have a suggestion of their own."""

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

Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, all else on standard error.")]
RunFolder = Annotated[Path, typer.Argument(help="A run folder.", metavar="DIR")]
Client = Annotated[str, typer.Option("--client", metavar="ID", help="A client of the run.")]
MethodName = Annotated[str | None, typer.Option("--method", help="One of the run's methods; default: the main one.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...; default: the run's, or else the CPU.")]


class Interrupted(Exception):
    """Ctrl-C while a run was on; typer would turn KeyboardInterrupt itself into a bare exit.

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
    """Keeps what libraries print apart from the one JSON object."""
    return contextlib.redirect_stdout(sys.stderr) if json_ else contextlib.nullcontext()


def comma_separated(text: str) -> list[str]:
    """``"a, b"`` -> ``["a", "b"]``."""
    return [word.strip() for word in text.split(",") if word.strip()]


def seed_numbers(text: str) -> list[int]:
    """``"0,1"`` -> ``[0, 1]``.

    Raises:
        ConfigError: something else than whole numbers.
    """
    from fedlease.errors import ConfigError

    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ConfigError(f"seeds: must be whole numbers with commas between, received {text!r}") from None


@contextlib.contextmanager
def progress(quiet: bool, folder: Path | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """A bar per description on standard error, where that is a terminal; call with description, done and total.

    Until the first call it says that libraries and a model are loaded, so import what takes seconds in the block.

    Args:
        quiet: whether nothing is shown.
        folder: of a run, which is looked at before anything is loaded.

    Raises:
        RunFolderError: it is no run folder, or damaged.
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
