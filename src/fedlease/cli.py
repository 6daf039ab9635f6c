"""The command line: parses, calls, prints."""

import ast
import contextlib
import importlib.util
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlease._version import __version__
from fedlease.errors import InputError, RunFailedError

__all__ = ["app", "main"]

QUIET_LIBRARIES = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}

INTERRUPTED = 130
"""Exit code, also typer's, of what Ctrl-C ended."""

app = typer.Typer(
    name="fedlease",
    help="Fine-tune language models across organisations that share neither data nor task.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[
    Path | None, typer.Argument(help="Settings in YAML. Without it: the quickstart.", show_default=False)
]
Preset = Annotated[str | None, typer.Option(help="A shipped set of settings; see `fedlease presets`.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")]
Out = Annotated[Path | None, typer.Option(help="Folder to write; default: a new one in runs/.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only the final table.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, all else on standard error.")]
RunFolder = Annotated[Path, typer.Argument(help="A run folder.", metavar="DIR")]


class _Interrupted(Exception):
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


@app.command("run")
def run_command(
    config: Config = None,
    preset: Preset = None,
    set_: Set = None,
    out: Out = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Run a method and its baselines into a run folder. Without arguments: the quickstart."""
    from fedlease.config import resolve

    settings = resolve(config, preset=preset, overrides=set_ or ())
    from fedlease.runner import default_out, run_settings

    folder = out or default_out(settings)
    _watched(lambda listeners: run_settings(settings, folder, listeners), folder, quiet, json_)


@app.command()
def resume(folder: RunFolder, quiet: Quiet = False, json_: Json = False) -> None:
    """Go on with an interrupted run from its last complete step."""
    from fedlease import runner

    _watched(lambda listeners: runner.resume(folder, listeners), folder, quiet, json_)


@app.command()
def check(config: Config = None, preset: Preset = None, set_: Set = None, json_: Json = False) -> None:
    """Check settings, data and model without training; estimate time, memory and bytes."""
    from fedlease.config import resolve

    settings = resolve(config, preset=preset, overrides=set_ or ())
    from fedlease.checking import check_settings

    with _stdout_for_json(json_):
        report = check_settings(settings)
    if json_:
        import dataclasses

        content = dataclasses.asdict(report) | {"settings": report.settings.model_dump(mode="json")}
        typer.echo(json.dumps(content))
        return
    from rich.console import Console

    from fedlease.reporting.tables import render_check

    render_check(report, Console())


@app.command()
def presets(name: Annotated[str | None, typer.Argument(help="Print this one's YAML.")] = None) -> None:
    """List the shipped sets of settings, or print one."""
    from fedlease.config import preset_names, preset_text

    if name is not None:
        typer.echo(preset_text(name), nl=False)
        return
    for preset in preset_names():
        comment = [line.removeprefix("#").strip() for line in preset_text(preset).splitlines() if line.startswith("#")]
        prose = " ".join(comment[comment.index("") + 1 :])
        typer.echo(f"{preset:15} {prose.split('. ')[0].rstrip('.')}.")


@app.command()
def methods() -> None:
    """List the federated methods."""
    from fedlease.methods import METHODS

    for name, where in sorted(METHODS.items()):
        spec = importlib.util.find_spec(where.partition(":")[0])
        text = Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin else ""
        typer.echo(f"{name:15} {(ast.get_docstring(ast.parse(text)) or '').splitlines()[0]}")


def main() -> None:
    """Entry point: every error becomes an exit code here, and only here."""
    for key, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(key, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)
    try:
        app()
    except InputError as error:
        _complain(*error.faults)
        sys.exit(2)
    except RunFailedError as error:
        _complain(f"the run failed: {error}")
        sys.exit(1)
    except _Interrupted as error:
        begun = (error.folder / "config.yaml").is_file()
        _complain(f"interrupted; go on with: fedlease resume {error.folder}" if begun else "interrupted; nothing begun")
        sys.exit(INTERRUPTED)
    except SystemExit as error:
        if error.code == INTERRUPTED:
            _complain("interrupted")
        raise
    except Exception:
        traceback.print_exc()
        _complain(f"this is a fault of fedlease {__version__}: please report it with the lines above")
        sys.exit(1)


def _complain(*sentences: str) -> None:
    for sentence in sentences:
        # One line each, whatever a file name or a library's message holds.
        print(f"fedlease: {' '.join(sentence.splitlines())}", file=sys.stderr)


def _stdout_for_json(json_: bool) -> contextlib.AbstractContextManager[object]:
    """Keeps what libraries print apart from the one JSON object."""
    return contextlib.redirect_stdout(sys.stderr) if json_ else contextlib.nullcontext()


def _watched(call: Callable[[list[Any]], Any], folder: Path, quiet: bool, json_: bool) -> None:
    from rich.console import Console

    from fedlease.reporting.tables import render_results
    from fedlease.reporting.terminal import Terminal

    console = Console(stderr=json_)
    terminal = Terminal(console)
    try:
        with _stdout_for_json(json_):
            result = call([] if quiet else [terminal])
    except KeyboardInterrupt:
        raise _Interrupted(folder) from None
    finally:
        terminal.close()
    if json_:
        typer.echo(json.dumps({"out": str(result.out), "summaries": result.summaries}))
    elif not terminal.finished:
        render_results(result.out, result.summaries, console)
