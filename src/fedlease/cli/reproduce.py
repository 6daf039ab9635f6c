"""The command that runs the paper's experiments by name."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlease.cli.runs import Set
from fedlease.cli.shared import Json, Quiet, app, comma_separated, seed_numbers, stdout_for_json
from fedlease.core.wording import counted, printable

if TYPE_CHECKING:
    from fedlease.experiments.cells import Cell

__all__ = ["reproduce"]


@app.command()
def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="An experiment; without it, all are listed.", metavar="NAME")
    ] = None,
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
    from fedlease.experiments.catalogue import EXPERIMENTS, find, preset_of

    if name is None or list_:
        if json_:
            typer.echo(json.dumps({key: experiment.asks for key, experiment in EXPERIMENTS.items()}))
            return
        for key, experiment in EXPERIMENTS.items():
            typer.echo(f"{key:20} {experiment.asks}")
        return
    preset_of(find(name), scale)  # before libraries that take seconds to load
    numbers = seed_numbers(seeds)
    from fedlease.experiments.watching import watched_cells

    def name_of(cell: "Cell") -> str:
        return str(cell.folder.relative_to(ready.out))

    with stdout_for_json(True), watched_cells(f"{name}: loading libraries", name_of, progress=not quiet) as shown:
        from fedlease.experiments import reproduce as experiments
        from fedlease.experiments.reproduce_tables import markdown

        ready = experiments.planned(
            name, scale, numbers, data=data, changes=set_ or (), only=comma_separated(only), out=out
        )
        if not quiet:
            done = sum(cell.finished for cell in ready.cells)
            cells = counted(len(ready.cells), "cell")
            typer.echo(printable(f"{name}: {cells} in {ready.out}, {done} of them finished"), err=True)
        content = experiments.reproduce(ready, **shown)
    typer.echo(json.dumps(content) if json_ else markdown(content), nl=json_)
