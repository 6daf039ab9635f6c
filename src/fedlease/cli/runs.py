"""Commands that start, continue and check runs."""

import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fedlease.cli.shared import Interrupted, Json, Quiet, RunFolder, app, progress, stdout_for_json

if TYPE_CHECKING:
    from fedlease.config.settings import Settings
    from fedlease.reporting.terminal import Terminal
    from fedlease.server.events import Listener

    Hear = Callable[[], Sequence[Listener]]

__all__ = ["check", "resume", "run_command"]

Config = Annotated[
    Path | None, typer.Argument(help="Settings in YAML. Without it: the quickstart.", show_default=False)
]


def _presets_begun(incomplete: str) -> list[str]:
    """Completes names of presets in a shell."""
    from fedlease.config.settings import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


def _settings_begun(incomplete: str) -> list[str]:
    """Completes names of settings in a shell."""
    from fedlease.config.faults import setting_names
    from fedlease.config.settings import Settings

    return [f"{name}=" for name in setting_names(Settings) if name.startswith(incomplete)]


Preset = Annotated[
    str | None,
    typer.Option(help="Name of a preset; see `fedlease presets`.", autocompletion=_presets_begun),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.", autocompletion=_settings_begun),
]
Out = Annotated[Path | None, typer.Option(help="Folder to write; default: a new one in runs/.")]
From = Annotated[
    Path | None,
    typer.Option("--from", metavar="DIR", help="Continue a finished run in a new folder; needs --set rounds=+N."),
]
NewRows = Annotated[bool, typer.Option("--new-rows", help="With --from: allow other rows than the run's.")]


To = Annotated[
    int | None,
    typer.Option("--to", metavar="ROUND", min=0, help="Go back; ROUND is the first to be repeated, 0 the warm-up."),
]
Without = Annotated[
    list[str] | None,
    typer.Option("--without", metavar="CLIENT", help="Exclude this client from then on; repeatable."),
]


EngineName = Literal["in-process", "flower"]
Tracker = Literal["none", "mlflow", "tensorboard", "wandb"]
Engine = Annotated[EngineName, typer.Option(help="flower: a simulation on this machine, one node per client.")]
Log = Annotated[Tracker, typer.Option(help="Stream figures to a tracker during the run.")]


@app.command("run")
def run_command(
    config: Config = None,
    preset: Preset = None,
    set_: Set = None,
    out: Out = None,
    from_: From = None,
    new_rows: NewRows = False,
    engine: Engine = "in-process",
    log: Log = "none",
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Run a method and its baselines into a run folder. Without arguments: the quickstart."""
    from fedlease.config.settings import resolve

    if from_ is None:
        settings = resolve(config, preset=preset, overrides=_no_sum(set_ or ()))
    else:
        _check_continuing(config, preset, engine)
        from fedlease.runs.continued_settings import continued_settings

        settings = continued_settings(from_, set_ or ())
    from fedlease.storage.run_folder import check_no_run, default_out

    folder = out or default_out(settings)
    if engine == "flower":
        _watched(lambda hear: _simulated(settings, folder, hear(), new=True), folder, log, quiet, json_)
        return
    check_no_run(folder)

    def call(hear: "Hear") -> dict[str, dict[str, Any]]:
        from fedlease.runs.machine import resolve_paths
        from fedlease.runs.rows import rows_of
        from fedlease.storage.summary import contents_of

        # Rows are read before libraries that take seconds to load; with --from, they are compared later.
        rows = rows_of(resolve_paths(settings)) if from_ is None else None
        from fedlease.runs.runner import run_settings

        found = run_settings(settings, folder, hear(), rows=rows, continue_from=from_, new_rows=new_rows)
        return contents_of(found)

    _watched(call, folder, log, quiet, json_)


@app.command()
def resume(
    folder: RunFolder,
    to: To = None,
    without: Without = None,
    engine: Engine = "in-process",
    log: Log = "none",
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Continue an interrupted run after its last complete step; with --to or --without, go back first."""
    from fedlease.errors import ConfigError
    from fedlease.storage.run_folder import read_settings

    settings = read_settings(folder)  # before libraries that take seconds to load
    if engine == "flower" and (to is not None or without):
        raise ConfigError("--to, --without: a run can only go back in this process; leave out --engine flower")
    if engine == "flower":
        _watched(lambda hear: _simulated(settings, folder, hear(), new=False), folder, log, quiet, json_)
        return
    _watched(lambda hear: _resumed(folder, hear(), to, without or ()), folder, log, quiet, json_)


@app.command()
def check(config: Config = None, preset: Preset = None, set_: Set = None, json_: Json = False) -> None:
    """Check settings, data and model without training; estimate time, memory and bytes."""
    from fedlease.config.settings import resolve

    settings = resolve(config, preset=preset, overrides=set_ or ())
    with stdout_for_json(json_), progress(False):
        from fedlease.runs.machine import resolve_paths
        from fedlease.runs.rows import rows_of

        rows = rows_of(resolve_paths(settings))  # before libraries that take seconds to load
        from fedlease.runs.check import check_settings

        report = check_settings(settings, rows)
    if json_:
        import dataclasses

        content = dataclasses.asdict(report) | {"settings": report.settings.model_dump(mode="json")}
        typer.echo(json.dumps(content))
        return
    from rich.console import Console

    from fedlease.cli.check_report import render_check

    render_check(report, Console(), _run_command(config, preset, set_ or ()))


def _run_command(config: Path | None, preset: str | None, changes: Sequence[str]) -> str:
    """The shell command that runs what was checked."""
    words = [] if config is None else [str(config)]
    words += [] if preset is None else ["--preset", preset]
    return shlex.join(["fedlease", "run", *words, *(word for change in changes for word in ("--set", change))])


def _no_sum(words: "Sequence[str]") -> "Sequence[str]":
    """Refuses ``rounds=+N`` for a new run, which has no rounds to add to."""
    from fedlease.errors import ConfigError

    for word in words:
        key, _, value = word.partition("=")
        if key.strip() == "rounds" and value.strip().startswith("+"):
            raise ConfigError(f"rounds: {value.strip()} adds to a finished run, which must be named by --from DIR")
    return words


def _check_continuing(config: Path | None, preset: str | None, engine: EngineName) -> None:
    from fedlease.errors import ConfigError

    if config is not None or preset is not None:
        given = config if config is not None else f"--preset {preset}"
        raise ConfigError(f"--from: takes the settings of its run, and --set changes them; leave out {given}")
    if engine != "in-process":
        raise ConfigError(f"--from: a run can only be continued in this process; leave out --engine {engine}")


def _watched(
    call: Callable[["Hear"], dict[str, dict[str, Any]]], folder: Path, log: Tracker, quiet: bool, json_: bool
) -> None:
    """Shows a run. Listeners load torch, so the run requests them only when it needs torch itself."""
    from rich.console import Console

    from fedlease.reporting.bars import bars_on

    console = Console(stderr=json_)
    bars, opened = bars_on(console), ExitStack()
    terminal: Terminal | None = None
    if not quiet:
        bars.waits(f"Run folder {folder}: loading libraries, rows and model")

    def hear() -> list[Any]:
        nonlocal terminal
        from fedlease.reporting.terminal import Terminal
        from fedlease.reporting.trackers import tracker

        terminal = Terminal(console, bars=bars)
        # The tracker is made first, so that a missing package stops the run before any training.
        streams = [] if log == "none" else [opened.enter_context(closing(tracker(log, folder)))]
        return [*([] if quiet else [terminal]), *streams]

    try:
        with stdout_for_json(json_):
            summaries = call(hear)
    except KeyboardInterrupt:
        raise Interrupted(folder) from None
    finally:
        bars.close()
        opened.close()
    if json_:
        verdict = next(iter(summaries.values())).get("verdict")
        typer.echo(json.dumps({"out": str(folder), "verdict": verdict, "summaries": summaries}))
    elif terminal is None or not terminal.finished:
        from fedlease.reporting.results import render_results

        if not quiet:
            console.print("The run had ended, and nothing was left to do. Its result:")
        render_results(folder, summaries, console)


def _resumed(
    folder: Path, listeners: "Sequence[Listener]", to: int | None, without: Sequence[str]
) -> dict[str, dict[str, Any]]:
    from fedlease.runs import runner
    from fedlease.storage.summary import contents_of

    return contents_of(runner.resume(folder, listeners, to=to, without=without))


def _simulated(
    settings: "Settings", folder: Path, listeners: "Sequence[Listener]", *, new: bool
) -> dict[str, dict[str, Any]]:
    """A run over a Flower simulation on this machine."""
    from fedlease.errors import RunFolderError
    from fedlease.flower.simulation import simulate

    if new and (folder / "config.yaml").exists():
        raise RunFolderError(
            f"out: {folder} already holds a run; go on with: fedlease resume {folder} --engine flower, or choose "
            "another --out"
        )
    return simulate(settings, folder, listeners)
