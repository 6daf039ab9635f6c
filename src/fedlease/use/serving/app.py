"""The web application: predictions for every client of a run."""

import asyncio
import contextlib
import logging
import traceback
from collections.abc import AsyncIterator, Collection, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from fedlease._version import __version__
from fedlease.core.wording import printable
from fedlease.errors import FedLeaseError, MissingPackageError
from fedlease.use.open_run import KnownClient, OpenRun
from fedlease.use.serving.batcher import Batcher, Predictor, QueueFullError
from fedlease.use.serving.requests import (
    ClientPredictions,
    ClientRows,
    Failure,
    Limits,
    Refusal,
    SeveralClients,
    SeveralPredictions,
    check_content_type,
    read_requests,
    rows_of,
)

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

__all__ = ["import_packages", "make_app"]

BODY_SECONDS = 30
"""A body that has not arrived by then is given up."""
DRAINED_BYTES, DRAIN_SECONDS = 16_000_000, 5
"""How much of a body that is too large is read, so that its sender gets the refusal and not a reset connection."""
MAX_REQUESTS = 256
"""Predict requests in progress at a time; those that are still arriving are bounded by the connections."""

FAILED = "the server failed on this request; its log says where"

log = logging.getLogger(__name__)


def make_app(run: OpenRun, limits: Limits = Limits(), hosts: Collection[str] | None = None) -> "FastAPI":  # noqa: B008
    """The application, with the base loaded and two rows computed; its batcher is ``app.state.batcher``.

    Args:
        run: opened run folder.
        limits: of requests, batches and the queue.
        hosts: names under which it may be called; None allows any. The list refuses a page in a browser that makes its
            own name resolve to this machine.

    Raises:
        MissingPackageError: fastapi is not installed.
        ModelError: the base model cannot be had, or rows cannot be computed together in its architecture.
    """
    import_packages()
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    waiting = 4 * limits.max_rows if limits.max_waiting is None else limits.max_waiting
    batcher = Batcher(Predictor(run), max_batch=limits.max_batch, wait_ms=limits.wait_ms, max_waiting=waiting)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close)

    app = FastAPI(
        title="fedlease", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan
    )
    app.state.batcher = batcher
    if hosts is not None:
        app.add_middleware(_OnlyHosts, hosts=frozenset(hosts))
    in_progress: set[Request] = set()

    @app.get("/health", summary="Whether the server runs, and which run it serves.")
    async def health() -> dict[str, str | int]:
        named = {"status": "ok", "run": run.out.resolve().name, "method": run.method, "version": __version__}
        return {**named, "clients": len(run.clients)}

    @app.get("/clients", summary="Every client with its labels.")
    async def clients() -> dict[str, list[dict[str, Any]]]:
        everyone = run.clients.values()
        return {"clients": [{"id": c.id, "task": c.task, "labels": c.labels, "pairs": c.pairs} for c in everyone]}

    schema = TypeAdapter(ClientRows | SeveralClients).json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs")
    failures: dict[int | str, Any] = {s: {"model": Failure} for s in (400, 404, 408, 413, 415, 422, 500, 503)}

    @app.post(
        "/predict",
        summary="Labels and probabilities of rows, by their clients' own models.",
        responses={200: {"model": ClientPredictions | SeveralPredictions}, **failures},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    )
    async def predict(request: Request) -> JSONResponse:
        try:
            check_content_type(request.headers.items())
            body = await _body(request, limits.max_body_bytes)
            with contextlib.ExitStack() as stack:
                in_progress.add(request)
                stack.callback(in_progress.discard, request)
                if len(in_progress) > MAX_REQUESTS:
                    raise Refusal(503, "too many requests at a time", {"Retry-After": "1"})
                asked, several = read_requests(body, limits.max_rows)
                places = [f"requests.{i}." if several else "" for i in range(len(asked))]
                rows = [row for one, place in zip(asked, places, strict=True) for row in rows_of(run, one, place)]
                found = await asyncio.wrap_future(batcher.submit(rows))
            probabilities = iter(found)
            results = [_reply(run.clients[one.client], [next(probabilities) for _ in one.rows]) for one in asked]
            return JSONResponse({"results": results} if several else results[0])
        except QueueFullError:
            return JSONResponse({"error": "too many rows wait"}, 503, {"Retry-After": "1"})
        except Refusal as refusal:
            return JSONResponse(refusal.content, refusal.status, refusal.headers)
        except Exception as error:
            _log_failure(error)
            return JSONResponse({"error": FAILED}, 500)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        path = printable(request.url.path, longest=200)
        texts = {404: f"no such path: {path}", 405: f"{request.method:.20} is not for {path}"}
        more = {"paths": ["/health", "/clients", "/predict", "/openapi.json"]} if error.status_code == 404 else {}
        content = {"error": texts.get(error.status_code, str(error.detail)), **more}
        return JSONResponse(content, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": FAILED}, 500)

    app.openapi().setdefault("components", {}).setdefault("schemas", {}).update(definitions)
    return app


def import_packages() -> None:
    """Makes sure that the packages of the server are there.

    Raises:
        MissingPackageError: fastapi or uvicorn is not installed.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("fastapi", "fedlease serve", "pip install 'fedlease[serve]'") from error


async def _body(request: "Request", limit: int) -> bytes:
    from starlette.requests import ClientDisconnect

    refusal = Refusal(413, f"the body must be at most {limit} bytes", {"Connection": "close"})
    header = request.headers.get("content-length", "")
    declared = int(header) if header.isdecimal() else 0
    # A sender that waits for permission to send too much is refused at once.
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


def _reply(client: KnownClient, rows: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The predictions for one client, from the probabilities of its labels, one list per row."""
    predictions = []
    for values in rows:
        best = max(range(len(values)), key=values.__getitem__)
        probabilities = dict(zip(client.labels, values, strict=True))
        predictions.append({"label": client.labels[best], "probability": values[best], "probabilities": probabilities})
    return {"client": client.id, "predictions": predictions}


def _log_failure(error: Exception) -> None:
    """Logs where and what, but no message of foreign code: it may quote a row."""
    places = "".join(traceback.format_tb(error.__traceback__))
    what = printable(str(error), longest=1000) if isinstance(error, FedLeaseError) else type(error).__name__
    log.error("a request failed: %s\n%s", what, places)


class _OnlyHosts:
    """Refuses requests for other host names."""

    def __init__(self, app: Any, hosts: frozenset[str]) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            header = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            name = header if header.endswith("]") else header.rsplit(":", 1)[0]
            if name.strip("[]").lower() not in self.hosts:
                from fastapi.responses import JSONResponse

                response = JSONResponse({"error": f"this server is not called {name!r:.120}"}, 400)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)
