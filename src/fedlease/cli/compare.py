"""The command that compares methods."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlease.cli.runs import Config, Preset, Set
from fedlease.cli.shared import Json, Quiet, app, stdout_for_json

__all__ = ["compare"]


@app.command()
def compare(
    config: Config = None,
    methods: Annotated[str, typer.Option(help="Names with commas between; the first is held against the others.")] = (
        "fedlease,fedit,local"
    ),
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
    """Run several methods on several seeds: means, spread, paired intervals. Resumable."""
    from fedlease.config.settings import resolve
    from fedlease.errors import ConfigError

    settings = resolve(config, preset=preset, overrides=set_ or ())
    names = [name.strip() for name in methods.split(",") if name.strip()]
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ConfigError(f"seeds: must be whole numbers with commas between, received {seeds!r}") from None
    from rich.console import Console

    from fedlease.experiments import compare as experiment
    from fedlease.experiments.cells import Cell, variants_of
    from fedlease.reporting.means import over
    from fedlease.reporting.tables import escape, percent
    from fedlease.tasks.metric_words import of_metric

    console = Console(stderr=True)

    def tell(cell: Cell, summary: Mapping[str, Any] | None) -> None:
        what = f"{escape(cell.variant.name)}, seed {cell.seed}"
        if summary is not None:
            name = of_metric(summary["metric"]).name
            console.print(f"{what}: mean {name} {percent(summary['mean'])} % over {over(summary)} clients")
        elif not cell.finished:
            console.print(f"{what}: runs")

    with stdout_for_json(True):
        content = experiment.compare(
            settings,
            variants_of(names),
            numbers,
            out,
            rates=experiment.LEARNING_RATES if tune_lr else (),
            on_cell=None if quiet else tell,
        )
    typer.echo(json.dumps(content) if json_ else experiment.markdown(content), nl=json_)
