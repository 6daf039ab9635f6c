"""Limits on the number of connections, on the time that a connection may wait, and on lines in the log."""

import logging
import os
import sys
import time
from asyncio import TimerHandle, Transport
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["BACKLOG", "SparingLog", "bounded_protocol", "most_connections"]

MAX_CONNECTIONS = 512
BACKLOG = 32
"""Connections accepted at once; without file descriptors, asyncio would repeatedly log a failure for each of them."""
FILES_LEFT = 32
"""File descriptors reserved for other uses than connections."""
BODY_MEMORY = 2**30
"""Most bytes of all bodies that are arriving."""
HEADER_SECONDS = 10.0
"""Most seconds from the opening of a connection, or its last response, to the end of the next request's headers."""
ANSWER_SECONDS = 30.0
"""Most seconds that a caller may take to read a response that exceeds the buffers."""
LOG_LINES, LOG_SECONDS = 20, 60.0
"""Most lines of one kind in this many seconds."""


def most_connections(max_body_bytes: int) -> int:
    """The number of connections that file descriptors and memory of this process allow; at least 8."""
    room = MAX_CONNECTIONS
    if sys.platform != "win32":
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            # The backlog counts twice, since a connection that is replaced closes one turn of the event loop later.
            room = soft - len(os.listdir("/dev/fd")) - 2 * BACKLOG - FILES_LEFT
    return max(8, min(MAX_CONNECTIONS, room, BODY_MEMORY // max_body_bytes))


def bounded_protocol(most: int) -> type[H11Protocol]:
    """uvicorn's protocol for at most ``most`` connections, with limits on how long each may wait.

    A further connection replaces the one that has waited longest for its request to arrive; if none is waiting, the new
    connection is closed. So callers that send nothing, or half a request, cannot block others.
    """

    class Bounded(H11Protocol):
        since = 0.0
        timer: TimerHandle | None = None
        reading: TimerHandle | None = None

        @property
        def idle(self) -> bool:
            """Whether no request has begun."""
            return self.cycle is None or self.cycle.response_complete

        @property
        def waits(self) -> bool:
            """Whether the next request has not arrived in full."""
            return not self.transport.is_closing() and (self.idle or self.cycle.more_body)

        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_headers()
            open_ = [other for other in self.connections if not other.transport.is_closing()]
            if len(open_) > most:
                waiting = [other for other in open_ if isinstance(other, Bounded) and other.waits and other is not self]
                min(waiting, key=lambda other: other.since, default=self).transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not self.idle:
                self._stop("timer")

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.idle:
                self._await_headers()

        def pause_writing(self) -> None:
            super().pause_writing()
            self.reading = self.loop.call_later(ANSWER_SECONDS, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop("reading")

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop("timer")
            self._stop("reading")
            super().connection_lost(exc)

        def _await_headers(self) -> None:
            self._stop("timer")
            self.since = self.loop.time()
            self.timer = self.loop.call_later(HEADER_SECONDS, self._late)

        def _late(self) -> None:
            if self.idle:
                self.transport.abort()

        def _stop(self, name: str) -> None:
            timer = getattr(self, name)
            if timer is not None:
                timer.cancel()
                setattr(self, name, None)

    return Bounded


class SparingLog(logging.Filter):
    """Passes ``LOG_LINES`` lines of a kind in ``LOG_SECONDS``; the last one says that further lines are left out."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        now = time.monotonic()
        # Texts contain numbers, so lines of a kind are recognised by the place in the code that logs them.
        kind = f"{record.pathname}:{record.lineno}"
        begun, count = self._kinds.get(kind, (now, 0))
        if now - begun >= LOG_SECONDS:
            begun, count = now, 0
        self._kinds[kind] = begun, count + 1
        if count == LOG_LINES - 1:
            record.msg = f"{record.msg} (further lines like this are left out for {LOG_SECONDS:.0f} s)"
        return count < LOG_LINES

    def __enter__(self) -> "SparingLog":
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self)
        return self

    def __exit__(self, *_: Any) -> None:
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self)


_LOGGERS = ("asyncio", "uvicorn.error", "fedlease.use.serving.app")
