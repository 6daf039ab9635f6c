"""Commands about several runs: runs, diff."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fedlease.cli.shared import Json, RunFolder, app

__all__ = ["diff", "runs"]


@app.command()
def runs(
    folder: Annotated[Path | None, typer.Argument(help="Folder with runs; default: runs/.", metavar="DIR")] = None,
    json_: Json = False,
) -> None:
    """List the runs in a folder and its subfolders: method, rounds, score and state of each."""
    from rich.console import Console

    from fedlease.reporting.formats import print_note
    from fedlease.reporting.listing import listing, listing_table

    where = folder if folder is not None else Path("runs")
    found = listing(where) if folder is not None or where.exists() else []
    if json_:
        typer.echo(json.dumps({"runs": found}))
        return
    if not found:
        typer.echo(f"There are no runs in {where}; fedlease run makes one.")
        return
    console = Console()
    console.print(listing_table(where, found).for_terminal())
    for run in found:
        if "reason" in run:
            print_note(console, run["reason"])


@app.command()
def diff(
    folder: RunFolder,
    other: Annotated[Path, typer.Argument(help="Another run folder.", metavar="OTHER")],
    json_: Json = False,
) -> None:
    """Compare two runs: settings that differ, groups, scores."""
    from rich.console import Console

    from fedlease.reporting.formats import escape
    from fedlease.reporting.listing import difference, difference_tables

    content = difference(folder, other)
    if json_:
        typer.echo(json.dumps(content))
        return
    console = Console()
    for shown in difference_tables(content):
        if isinstance(shown, str):
            console.print(escape(shown), soft_wrap=True)
        else:
            console.print(shown.for_terminal())
