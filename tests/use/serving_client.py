"""A server in a thread of the tests' process, and what is asked of it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fedlease.use.open_run import OpenRun
from fedlease.use.serving import serve as serving
from fedlease.use.serving.app import make_app
from fedlease.use.serving.requests import Limits

httpx = pytest.importorskip("httpx", reason="fedlease[dev] is not installed")

SECONDS = 20.0
HOSTS = ("127.0.0.1", "localhost", "::1")


@contextmanager
def served(run: OpenRun, connections: int | None = None, **limits: Any) -> Iterator[Any]:
    """A client of a server; ``client.app`` is its application, ``client.server`` the server."""
    more = {name: limits.pop(name) for name in ("tokens", "access_log") if name in limits}
    app = make_app(run, hosts=limits.pop("hosts", HOSTS), limits=Limits(**limits), **more)
    with serving._listen("127.0.0.1", 0) as listener:
        server = serving._server(app, connections=connections)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            # Of this machine only: no proxy of the environment is asked.
            with httpx.Client(base_url=url, timeout=SECONDS, trust_env=False) as client:
                client.app, client.server = app, server
                yield client
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            assert not thread.is_alive()


def rows_of(*texts: str) -> list[dict[str, str]]:
    """Rows of a request."""
    return [{"text": text} for text in texts]
