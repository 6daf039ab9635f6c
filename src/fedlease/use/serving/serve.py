"""Serves all clients of a run over HTTP, with one base model in memory, until a signal ends it."""

import contextlib
import errno
import json
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fedlease.config.tables import task_facts
from fedlease.errors import ConfigError
from fedlease.use.open_run import OpenRun
from fedlease.use.serving.access import Tokens
from fedlease.use.serving.app import import_packages, make_app
from fedlease.use.serving.requests import Limits

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

__all__ = ["serve"]

LOOPBACK = ("127.0.0.1", "::1", "localhost")
STOP_SECONDS = 60
"""Seconds that open requests have to finish when the server stops."""


def serve(
    out: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    method: str | None = None,
    device: str | None = None,
    limits: Limits = Limits(),  # noqa: B008  it is frozen
    quiet: bool = False,
    token_file: Path | None = None,
    access_log: str | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM; requests in progress are completed before it returns.

    Args:
        out: run folder.
        host: address to listen on; without tokens, everyone who reaches it may use all models.
        port: port to listen on; 0 takes a free one.
        method: a method of the run; None takes the main one.
        device: device of the computation; None takes the run's if this machine has it, else the CPU.
        limits: limits of requests, batches and the queue.
        quiet: whether to print only the address, without an example.
        token_file: file of tokens, see :meth:`fedlease.use.serving.access.Tokens.read`; None lets everyone call.
        access_log: file to which a JSON object is appended per request, ``-`` for standard error; None writes none.

    Raises:
        ConfigError: the address cannot be listened on, the run has no such method, or a file cannot be used.
        MissingPackageError: fastapi or uvicorn is not installed.
        RunFolderError: it is no run folder, or is damaged.
        ModelError: the base model cannot be loaded.
    """
    import_packages()
    from fedlease.use.serving.connections import SparingLog

    # The port is taken before the model is loaded, so that a wrong one is reported at once; early callers wait.
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(_listen(host, port)))
        run = OpenRun(out, method, device)
        tokens = None if token_file is None else Tokens.read(token_file, run.clients)
        if tokens is None and host not in LOOPBACK:
            print(f"fedlease: whoever reaches {host} may ask every model; see --token-file", file=sys.stderr)
        log = stack.enter_context(_opened(access_log))
        app = make_app(run, limits, LOOPBACK if host in LOOPBACK else None, tokens, log)
        server = _server(app, limits.max_body_bytes)

        def stop(*_: object) -> None:
            server.should_exit = True

        # uvicorn raises the signal again after stopping; the default handlers would then kill the process.
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
            print(
                url if quiet else f"Serving at {url}, for example: {_example(run, url, tokens=tokens is not None)}",
                file=sys.stderr,
                flush=True,
            )
            with SparingLog():
                server.run(sockets=[listener])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _server(app: "FastAPI", max_body_bytes: int = 1_000_000, connections: int | None = None) -> "uvicorn.Server":
    import uvicorn

    from fedlease.use.serving.connections import BACKLOG, bounded_protocol, most_connections

    protocol = bounded_protocol(connections or most_connections(max_body_bytes))
    options: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
    options |= {"proxy_headers": False, "http": protocol, "ws": "none", "loop": "asyncio", "backlog": BACKLOG}
    return uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=STOP_SECONDS, **options))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"host: {host!r} is not an address: {error.strerror}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # where it would let two processes listen on one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port: {port} is in use on {host}; choose another, or 0 for any free one") from error
        key = "host" if error.errno == errno.EADDRNOTAVAIL else "port"
        raise ConfigError(f"{key}: cannot listen on {host}, port {port}: {error.strerror}") from error
    return listener


@contextlib.contextmanager
def _opened(access_log: str | None) -> Iterator[TextIO | None]:
    if access_log in (None, "-"):
        yield None if access_log is None else sys.stderr
        return
    try:
        file = Path(str(access_log)).open("a", encoding="utf-8")  # noqa: SIM115  closed below
    except OSError as error:
        raise ConfigError(f"access-log: {access_log} cannot be written: {error.strerror}") from error
    with file:
        yield file


def _example(run: OpenRun, url: str, *, tokens: bool) -> str:
    client = next(iter(run.clients.values()))
    path, body = "/predict", dict[str, Any]()
    if task_facts(run.settings.task).model.writes:
        path = "/v1/chat/completions"
        body = {"model": client.id, "messages": [{"role": "user", "content": "..."}]}
    else:
        row = {"text": "...", **({"text_pair": "..."} if client.pairs else {})}
        body = {"client": client.id, "rows": [row]}
    header = "-H 'Authorization: Bearer TOKEN' " if tokens else ""
    return f"curl -s {url}{path} {header}-d {shlex.quote(json.dumps(body))}"
