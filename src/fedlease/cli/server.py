"""The commands of a federation's server: its gate, and the signature of the apps that it sends to nodes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedlease.cli.shared import app
from fedlease.flower.pace import LARGEST, MEGABYTES, REQUESTS

__all__ = ["gate", "sign"]


@app.command()
def gate(
    clients: Annotated[Path, typer.Option(help="Folder with ID.pub, the public key of every client.", metavar="DIR")],
    certificate: Annotated[Path, typer.Option(help="The server's certificate, PEM.", metavar="FILE")],
    key: Annotated[Path, typer.Option(help="Private key of the certificate, PEM.", metavar="FILE")],
    authority: Annotated[Path, typer.Option(help="Certificate that signed the SuperLink's, PEM.", metavar="FILE")],
    superlink: Annotated[str, typer.Option(help="Address of the SuperLink.", metavar="HOST:PORT")] = "127.0.0.1:8001",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    signatures: Annotated[Path | None, typer.Option(help="File written by fedlease sign.", metavar="FILE")] = None,
    requests: Annotated[int, typer.Option(help="Most requests of a client per minute.", min=1)] = REQUESTS,
    megabytes: Annotated[int, typer.Option(help="Most megabytes of a client per minute.", min=LARGEST)] = MEGABYTES,
) -> None:
    """Let only known nodes through to a SuperLink that listens on the loopback address."""
    with _flower("fedlease gate"):
        from fedlease.flower.gate_server import serve_gate

    serve_gate(superlink, host, port, clients, certificate, key, authority, signatures, requests, megabytes)


@app.command()
def sign(
    folder: Annotated[Path, typer.Argument(help="A Flower app that you have reviewed.", metavar="DIR")],
    key: Annotated[Path, typer.Option(help="Your private key, made by ssh-keygen -t ed25519.", metavar="FILE")],
    out: Annotated[Path, typer.Option(help="File of signatures, for fedlease gate.", metavar="FILE")],
) -> None:
    """Sign an app for the nodes that trust your key, and print the line that they need."""
    import time

    with _flower("fedlease sign"):
        from fedlease.flower.signatures import sign_app

    packed, name, public = sign_app(folder, key, out, int(time.time()))
    typer.echo(
        f"signed {packed[:16]}... in {out}; nodes that trust you need this line in the file of --trusted-entities:"
    )
    typer.echo(f'"{name}": "{public}"')


@contextmanager
def _flower(purpose: str) -> Iterator[None]:
    from fedlease.errors import MissingPackageError

    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(str(error.name), purpose, "pip install 'fedlease[flower]'") from error
