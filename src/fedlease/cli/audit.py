"""The command that verifies an audit trail."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fedlease.cli.shared import Json, app

__all__ = ["audit"]


@app.command()
def audit(
    folder: Annotated[Path, typer.Argument(help="A run folder, or the state-dir of a node.", metavar="DIR")],
    head: Annotated[
        str | None, typer.Option(help="A hash noted earlier, which must be in the trail.", metavar="SHA256")
    ] = None,
    json_: Json = False,
) -> None:
    """Verify a folder's audit trail, and print the page that a data protection officer files."""
    from fedlease.errors import RunFolderError
    from fedlease.reporting.audit_page import audit_page
    from fedlease.storage.audit import AUDIT, read_trail

    lines = read_trail(folder / AUDIT)
    if not lines:
        raise RunFolderError(f"{folder / AUDIT} is empty")
    if head is not None and all(line["sha256"] != head for line in lines):
        raise RunFolderError(f"{folder / AUDIT} has no line {head!r}: lines were cut off, or it is another trail")
    if json_:
        typer.echo(json.dumps({"lines": len(lines), "head": lines[-1]["sha256"], "trail": lines}))
        return
    typer.echo(audit_page(folder, lines), nl=False)
