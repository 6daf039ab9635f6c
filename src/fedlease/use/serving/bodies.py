"""Reads bodies of requests, with limits on their size, their time and their number."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fedlease.use.serving.requests import Limits, Refusal, check_content_type

__all__ = ["MAX_REQUESTS", "InProgress"]

BODY_SECONDS = 30
"""Seconds in which a body must arrive."""
DRAINED_BYTES, DRAIN_SECONDS = 16_000_000, 5
"""How much of a body that is too large is read, so that its sender gets the refusal and not a reset connection."""
MAX_REQUESTS = 256
"""Most requests in progress; requests that are still arriving are limited by the number of connections."""


class InProgress:
    """The requests whose bodies have arrived and that are not answered yet."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._requests: set[int] = set()

    @contextlib.asynccontextmanager
    async def of(self, request: Any) -> AsyncIterator[bytes]:
        """Yields the body of a request, which is in progress within the context.

        Raises:
            Refusal: the content type is not JSON, the body is too large, too late or broken off, or there are too many
                requests in progress.
        """
        check_content_type(request.headers.items())
        body = await _body(request, self.limits.max_body_bytes)
        self._requests.add(id(request))
        try:
            if len(self._requests) > MAX_REQUESTS:
                raise Refusal(503, "too many requests at a time", {"Retry-After": "1"})
            yield body
        finally:
            self._requests.discard(id(request))


async def _body(request: Any, limit: int) -> bytes:
    from starlette.requests import ClientDisconnect

    refusal = Refusal(413, f"the body must be at most {limit} bytes", {"Connection": "close"})
    header = request.headers.get("content-length", "")
    declared = int(header) if header.isdecimal() else 0
    # A sender that asks for permission to send ("expect") is refused at once.
    if declared > limit + DRAINED_BYTES or (declared > limit and "expect" in request.headers):
        raise refusal
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS if declared > limit else BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= limit:
                    body += chunk
                elif size > limit + DRAINED_BYTES:
                    break
    except TimeoutError:
        if max(size, declared) <= limit:
            error = f"the body did not arrive within {BODY_SECONDS} s"
            raise Refusal(408, error, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refusal(400, "the body broke off") from None
    if max(size, declared) > limit:
        raise refusal
    return bytes(body)
