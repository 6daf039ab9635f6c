"""Serves a :class:`~fedlease.flower.gate.Gate`, after checking certificate, address and keys."""

import contextlib
import logging
import re
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from fedlease.errors import ConfigError
from fedlease.flower.gate import PATIENCE, Gate
from fedlease.flower.keys import clients_of
from fedlease.flower.pace import MEGABYTES, REQUESTS
from fedlease.flower.signatures import Signatures

__all__ = ["serve_gate"]

CONNECTIONS = 1000
"""Most simultaneous connections; more are answered with 503."""

STOP_SECONDS = 5
"""Seconds that open requests have to finish when the gate stops."""


def serve_gate(
    superlink: str,
    host: str,
    port: int,
    clients: Path,
    certificate: Path,
    key: Path,
    authority: Path,
    signatures: Path | None,
    requests: int = REQUESTS,
    megabytes: int = MEGABYTES,
) -> None:
    """Serves until it is interrupted.

    Args:
        superlink: host and port of the SuperLink.
        host: address to listen on.
        port: port to listen on.
        clients: see :class:`~fedlease.flower.gate.Gate`.
        certificate: file with the server's certificate.
        key: file with the private key of the certificate.
        authority: file with the certificate that signed the SuperLink's certificate.
        signatures: file of signatures; None attaches none.
        requests: see :class:`~fedlease.flower.gate.Gate`.
        megabytes: see :class:`~fedlease.flower.gate.Gate`.

    Raises:
        ConfigError: a file cannot be used, or the address cannot be listened on.
    """
    if not re.fullmatch(r"\S+:[0-9]{1,5}", superlink):
        raise ConfigError(f"--superlink: must be a host and a port, as in 127.0.0.1:8001, received {superlink!r}")
    known = clients_of(clients, "--clients")
    if signatures is not None:
        Signatures(signatures).all()
    with contextlib.ExitStack() as stack:
        upstream = httpx.AsyncClient(
            base_url=f"https://{superlink}", verify=_trusting(authority), timeout=PATIENCE, trust_env=False
        )
        app: Any = Gate(upstream, clients, None if signatures is None else Signatures(signatures), requests, megabytes)
        options: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False, "ws": "none"}
        options |= {"proxy_headers": False, "limit_concurrency": CONNECTIONS, "timeout_graceful_shutdown": STOP_SECONDS}
        config = uvicorn.Config(app, ssl_certfile=certificate, ssl_keyfile=key, **options)
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"--certificate, --key: {certificate}, {key} cannot be used: {error}") from error
        listener = stack.enter_context(contextlib.closing(_listening(host, port)))
        server = uvicorn.Server(config)

        def stop(*_: object) -> None:
            server.should_exit = True

        # uvicorn raises the signal again after stopping; the default handlers would then kill the process.
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, stop))
        logging.basicConfig(format="fedlease: %(message)s", level=logging.WARNING)
        print(
            f"fedlease: the gate is open at https://{host}:{port} to {len(known)} clients: "
            f"{', '.join(sorted(known.values())) or 'none yet'}",
            file=sys.stderr,
            flush=True,
        )
        server.run(sockets=[listener])


def _trusting(authority: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(authority))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"--authority: {str(authority)!r} cannot be used: {error}") from error


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--host, --port: cannot listen on {host}:{port}: {error}") from error
