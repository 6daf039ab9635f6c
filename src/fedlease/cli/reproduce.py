"""The command that runs the paper's experiments by name."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlease.cli.runs import Set
from fedlease.cli.shared import Json, Quiet, app, comma_separated, progress, seed_numbers, stdout_for_json
from fedlease.core.wording import counted, printable

if TYPE_CHECKING:
    from fedlease.experiments.cells import Cell

__all__ = ["reproduce"]

ATTACKS, ATTACKS_ASK = "attacks", "What do liars cost the honest clients beside them, by attack, phase and mean?"
"""The one experiment that compares no settings alone: some of its clients lie."""


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
            asks = {key: experiment.asks for key, experiment in EXPERIMENTS.items()}
            typer.echo(json.dumps({**asks, ATTACKS: ATTACKS_ASK}))
            return
        for key, experiment in EXPERIMENTS.items():
            typer.echo(f"{key:20} {experiment.asks}")
        typer.echo(f"{ATTACKS:20} {ATTACKS_ASK}")
        return
    if name == ATTACKS:
        _attacks(data, seed_numbers(seeds), out, set_ or (), comma_separated(only), quiet, json_)
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


def _attacks(
    data: Path | None,
    seeds: list[int],
    out: Path | None,
    changes: Sequence[str],
    only: list[str],
    quiet: bool,
    json_: bool,
) -> None:
    """Planted rows and the tiny model, in minutes; GLUE rows where ``--data`` names them."""
    folder = out or Path("runs") / "reproduce" / ATTACKS
    with stdout_for_json(True), progress(quiet) as show:
        from fedlease.config.faults import setting_names
        from fedlease.config.layers import parse_overrides
        from fedlease.config.settings import Settings
        from fedlease.errors import ConfigError
        from fedlease.experiments.attacks import attacks, markdown

        mine, faults = parse_overrides(changes, {*setting_names(Settings, text=True)})
        if faults:
            raise ConfigError(faults)

        def on_cell(cell: str, done: int, total: int) -> None:
            show(ATTACKS, done, total)

        content = attacks(folder, data=data, seeds=seeds, only=only, changes=mine, on_cell=on_cell)
    typer.echo(json.dumps(content) if json_ else markdown(content), nl=json_)
