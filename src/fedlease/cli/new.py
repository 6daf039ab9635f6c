"""The command that starts a project."""

from pathlib import Path
from typing import Annotated

import typer

from fedlease.cli.shared import app

__all__ = ["new"]


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="A new folder; its name becomes the app's.", metavar="DIR")],
    client: Annotated[
        list[str] | None, typer.Option("--client", metavar="ID", help="A client; repeatable. Default: three sites.")
    ] = None,
    host: Annotated[str, typer.Option(help="Name or address under which clients reach the server.")] = "localhost",
    port: Annotated[int, typer.Option(help="Port of the server.")] = 8000,
) -> None:
    """Write a complete Flower app: code, settings, sample rows, and a README with all commands up to real servers."""
    from fedlease.flower.new_app import CLIENTS, write_app

    write_app(folder, client or CLIENTS, host, port)
    typer.echo(f"{folder} is ready; next: cd {folder}, then fedlease run federation.yaml; README.md has the next steps")
