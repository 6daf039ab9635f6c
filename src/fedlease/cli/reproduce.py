"""The command that runs the paper's experiments by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlease.cli.runs import Set
from fedlease.cli.shared import Json, Quiet, app, stdout_for_json
from fedlease.core.wording import counted

__all__ = ["reproduce"]


@app.command()
def reproduce(
    name: Annotated[str | None, typer.Argument(help="Of an experiment. Without it: a list.", metavar="NAME")] = None,
    scale: Annotated[str, typer.Option(help="small: MiniLM, minutes a cell; paper: the paper's setting.")] = "small",
    data: Annotated[Path | None, typer.Option(help="Folder of GLUE or FLAN files; default: rows of the hub.")] = None,
    seeds: Annotated[str, typer.Option(help="Whole numbers with commas between.")] = "0,1,2",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; what it holds is not run again. Default: runs/reproduce/NAME-SCALE.", metavar="DIR"),
    ] = None,
    set_: Set = None,
    only: Annotated[str, typer.Option(help="Names of variants with commas between; default: all.")] = "",
    list_: Annotated[bool, typer.Option("--list", help="List the experiments.")] = False,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Run an experiment of the paper by name, and print its numbers beside the published ones. Resumable."""
    from fedlease.errors import ConfigError
    from fedlease.experiments.catalogue import EXPERIMENTS, find, preset_of

    if name is None or list_:
        if json_:
            typer.echo(json.dumps({key: experiment.asks for key, experiment in EXPERIMENTS.items()}))
            return
        for key, experiment in EXPERIMENTS.items():
            typer.echo(f"{key:20} {experiment.asks}")
        return
    preset_of(find(name), scale)  # before libraries that take seconds to load
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ConfigError(f"seeds: must be whole numbers with commas between, received {seeds!r}") from None
    from rich.console import Console

    from fedlease.experiments import reproduce as experiments
    from fedlease.experiments.cells import Cell
    from fedlease.experiments.reproduce_tables import markdown
    from fedlease.reporting.means import over
    from fedlease.reporting.tables import escape, percent
    from fedlease.tasks.metric_words import of_metric

    console = Console(stderr=True)
    variants = [word.strip() for word in only.split(",") if word.strip()]
    with stdout_for_json(True):
        ready = experiments.planned(name, scale, numbers, data=data, changes=set_ or (), only=variants, out=out)
        done = sum(cell.finished for cell in ready.cells)
        if not quiet:
            folder = escape(str(ready.out))
            console.print(
                f"{name}: {counted(len(ready.cells), 'cell')} in {folder}, {done} of them finished", soft_wrap=True
            )

        def tell(cell: Cell, summary: Mapping[str, Any] | None) -> None:
            what = escape(str(cell.folder.relative_to(ready.out)))
            if summary is not None:
                name = of_metric(summary["metric"]).name
                mean = f"{percent(summary['mean'])} % over {over(summary)} clients"
                console.print(f"{what}: mean {name} {mean}", soft_wrap=True)
            elif not cell.finished:
                console.print(f"{what}: runs", soft_wrap=True)

        content = experiments.reproduce(ready, on_cell=None if quiet else tell)
    typer.echo(json.dumps(content) if json_ else markdown(content), nl=json_)
