"""Counters for Prometheus and an access log, neither of which has any content of rows."""

import json
import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

from fedlease.core.types import ClientId
from fedlease.core.wording import printable

__all__ = ["Metrics", "Observed", "count"]

SHOWN_CLIENTS = 20
"""Most client names in one line of the access log."""

log = logging.getLogger(__name__)


class Metrics:
    """Counters of one application, in the text format of Prometheus.

    Args:
        waiting: returns the number of rows or prompts that wait.
        batches: returns the number of batches or answers computed so far.

    Raises:
        ImportError: prometheus-client is not installed.
    """

    def __init__(self, waiting: Callable[[], int], batches: Callable[[], int]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter("fedlease_requests", "Requests.", ["path", "method", "status"], registry=registry)
        self.seconds = Histogram(
            "fedlease_request_seconds", "Time until a response is complete.", ["path"], registry=registry
        )
        self.rows = Counter("fedlease_rows", "Rows predicted, or prompts answered.", ["client"], registry=registry)
        self.tokens = Counter("fedlease_tokens", "Tokens read and written.", ["client", "kind"], registry=registry)
        Gauge("fedlease_waiting", "Rows or prompts that wait.", registry=registry).set_function(waiting)
        Gauge("fedlease_batches", "Batches or answers computed since the start.", registry=registry).set_function(
            batches
        )

    def text(self) -> bytes:
        """The counters as text."""
        from prometheus_client import generate_latest

        page: bytes = generate_latest(self._registry)
        return page


def count(request: Any, clients: dict[ClientId, int], tokens: tuple[int, int] | None = None) -> None:
    """Attaches the counts of a request to it.

    Args:
        request: request of the web application.
        clients: client -> number of rows or prompts.
        tokens: numbers of tokens read and written, if there is one client.
    """
    request.scope["fedlease.facts"] = clients, tokens


class Observed:
    """Counts and logs every request when its response is complete.

    Args:
        app: the application that answers.
        paths: paths that are counted by name; all others are counted together, since callers can invent them.
        metrics: counters, or None.
        access_log: receives a line with a JSON object per request, or None.
    """

    def __init__(
        self, app: Any, paths: Collection[str], metrics: Metrics | None = None, access_log: TextIO | None = None
    ) -> None:
        self.app = app
        self.paths = frozenset(paths)
        self.metrics = metrics
        self.access_log = access_log

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles a request; the web framework calls this."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def sending(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            self._note(scope, status, time.perf_counter() - begun)

    def _note(self, scope: Any, status: int, seconds: float) -> None:
        path: str = scope["path"] if scope["path"] in self.paths else "other"
        clients, tokens = scope.get("fedlease.facts", ({}, None))
        if self.metrics is not None:
            method = scope["method"] if scope["method"] in ("GET", "POST") else "other"
            self.metrics.requests.labels(path, method, str(status)).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            for client, rows in clients.items():
                self.metrics.rows.labels(client).inc(rows)
                for kind, number in zip(("prompt", "answer"), tokens or (), strict=False):
                    self.metrics.tokens.labels(client, kind).inc(number)
        if self.access_log is not None:
            caller = scope.get("fedlease.caller")
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "from": (scope.get("client") or ("",))[0],
                "caller": None if caller is None else caller.name,
                "method": printable(scope["method"], longest=20),
                "path": printable(scope["path"], longest=200),
                "status": status,
                "ms": round(1000 * seconds, 1),
                "clients": sorted(clients)[:SHOWN_CLIENTS],
                "rows": sum(clients.values()),
                **({"prompt_tokens": tokens[0], "answer_tokens": tokens[1]} if tokens else {}),
            }
            with suppress(OSError, ValueError):  # a full disk or a closed pipe must not affect answers
                self.access_log.write(json.dumps(line, ensure_ascii=False) + "\n")
                self.access_log.flush()
