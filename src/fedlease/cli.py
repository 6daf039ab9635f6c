"""The command line: parses, calls, prints."""

import ast
import importlib.util
import json
import os
import sys
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

    report = check_settings(settings)
    if json_:
        import dataclasses

        content = dataclasses.asdict(report) | {"settings": report.settings.model_dump(mode="json")}
        typer.echo(json.dumps(content))
        return
    from rich.console import Console

    from fedlease.reporting.terminal import render_check

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
        for fault in error.faults:
            print(f"fedlease: {fault}", file=sys.stderr)
        sys.exit(2)
    except RunFailedError as error:
        print(f"fedlease: the run failed: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("fedlease: interrupted; go on with: fedlease resume DIR", file=sys.stderr)
        sys.exit(130)


def _watched(call: Callable[[list[Any]], Any], folder: Path, quiet: bool, json_: bool) -> None:
    from rich.console import Console

    from fedlease.reporting.terminal import Terminal, results_table

    console = Console(stderr=json_)
    terminal = Terminal(console)
    try:
        result = call([] if quiet else [terminal])
    finally:
        terminal.close()
    if json_:
        typer.echo(json.dumps({"out": str(folder), "summaries": result.summaries}))
    elif quiet:
        console.print(results_table(result.summaries))
