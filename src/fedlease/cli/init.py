"""The command that writes settings for files with rows."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedlease.cli.runs import Set
from fedlease.cli.shared import app
from fedlease.core.wording import counted
from fedlease.reporting.formats import escape, print_note, target_column

if TYPE_CHECKING:
    from fedlease.runs.initial import Understood

__all__ = ["init"]

CLIENTS = 20
"""Most clients that are listed; the others are counted."""
NOTES = 10
"""Most notes that are printed; the others are counted, and `fedlease check` prints all."""


@app.command()
def init(
    path: Annotated[
        Path, typer.Argument(help="A folder with a folder or a file per client, or one file.", metavar="PATH")
    ],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("federation.yaml"),
    set_: Set = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Look at your files, show what they contain, and write settings for `fedlease run`."""
    from fedlease.runs.initial import check_out, understand, write_settings

    check_out(out, force=force)
    found = understand(path, set_ or (), str(out))
    write_settings(found, out, force=force)
    _render(found, out, Console())


def _render(found: "Understood", out: Path, console: Console) -> None:
    settings = found.settings
    told = [("files", str(settings.data.path), ""), ("task", settings.task, found.task_why)]
    told += [(f"{key} column", column, why) for key, (column, why) in found.columns.items()]
    told += [("metric", str(settings.metric), found.metric_why)] * bool(found.metric_why)
    told += [("model", settings.model, f"needs {found.needed}" if found.needed else "")]
    console.print(_table("What the files hold", ("", "read as", "because"), told))
    title, targets = target_column(found.by_label, found.scales)
    clients = [
        (client, *([targets[client]] if title else []), f"{count:,}", f"{found.test_rows[client]:,}")
        for client, count in found.train_rows.items()
    ]
    header = ("client", *([title] if title else []), "train", "test")
    console.print(_table(counted(len(clients), "client"), header, clients[:CLIENTS], numbers=2))
    if len(clients) > CLIENTS:
        console.print(f"... and {counted(len(clients) - CLIENTS, 'more client')}")
    for client, reason in found.skipped.items():
        print_note(console, f"{client} is skipped: {reason}")
    for note in found.notes[:NOTES]:
        print_note(console, note)
    if len(found.notes) > NOTES:
        console.print(f"... and {counted(len(found.notes) - NOTES, 'more note')}")
    console.print(f"{escape(str(out))} is written; correct it where a guess is wrong.", soft_wrap=True)
    if found.needed:
        console.print(f"The model needs: {escape(found.needed)}", soft_wrap=True)
    console.print(f"Next: {escape(shlex.join(['fedlease', 'check', str(out)]))}", soft_wrap=True)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> Table:
    """A table whose last columns hold numbers; the tables of reports would load torch, which takes seconds."""
    table = Table(title=title)
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place >= len(header) - numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
