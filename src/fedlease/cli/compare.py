"""The command that compares methods."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fedlease.cli.runs import Config, Preset, Set
from fedlease.cli.shared import Json, Quiet, app, comma_separated, seed_numbers, stdout_for_json

__all__ = ["compare"]


@app.command()
def compare(
    config: Config = None,
    methods: Annotated[
        str, typer.Option(help="Names with commas between, or all; the first is compared with the others.")
    ] = ("fedlease,fedit,local"),
    seeds: Annotated[str, typer.Option(help="Whole numbers with commas between.")] = "0,1,2",
    out: Annotated[Path, typer.Option(help="Folder; what it holds already is not run again.")] = Path("runs/compare"),
    preset: Preset = None,
    set_: Set = None,
    tune_lr: Annotated[
        bool, typer.Option("--tune-lr", help="Choose 3e-4, 1e-3 or 3e-3 per method on validation rows.")
    ] = False,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Run several methods on several seeds: means, spread, paired intervals. Resumable.

    A method that fails is named with its reason, and the others are compared without it; the exit status is then 1.
    """
    from fedlease.config.settings import resolve

    settings = resolve(config, preset=preset, overrides=set_ or ())
    numbers = seed_numbers(seeds)
    from fedlease.experiments.calls import compare as run_all

    with stdout_for_json(True):
        content = run_all(settings, comma_separated(methods), numbers, out=out, tune_lr=tune_lr, progress=not quiet)
    from fedlease.experiments.surviving import failed_words
    from fedlease.reporting.comparison.page import markdown

    typer.echo(json.dumps(content) if json_ else markdown(content), nl=json_)
    if words := failed_words(content):
        typer.echo(f"fedlease: {words}; the same command tries again", err=True)
        raise typer.Exit(1)
