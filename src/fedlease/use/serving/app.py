"""The web application: the paths, refusals and middleware that all services of a run have in common."""

import asyncio
import contextlib
import logging
import traceback
from collections.abc import AsyncIterator, Collection
from typing import TYPE_CHECKING, Any, TextIO

from fedlease._version import __version__
from fedlease.config.tables import task_facts
from fedlease.core.wording import printable
from fedlease.errors import FedLeaseError, MissingPackageError
from fedlease.use.open_run import OpenRun
from fedlease.use.serving.access import OnlyCallers, Tokens, caller_of, refusal_body
from fedlease.use.serving.bodies import InProgress
from fedlease.use.serving.chatting import add_chat
from fedlease.use.serving.observe import Metrics, Observed
from fedlease.use.serving.page import HEADERS, render_page
from fedlease.use.serving.predicting import add_predict, make_batcher
from fedlease.use.serving.requests import Limits, Refusal
from fedlease.use.serving.writer import Writer

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["import_packages", "make_app"]

WAITING_PROMPTS = 64
FAILED = "the server failed on this request; its log says where"
CODES = {404: "model_not_found", 403: "permission_denied", 500: "server_error", 503: "server_error"}

log = logging.getLogger(__name__)


def make_app(
    run: OpenRun,
    limits: Limits = Limits(),  # noqa: B008  it is frozen
    hosts: Collection[str] | None = None,
    tokens: Tokens | None = None,
    access_log: TextIO | None = None,
) -> "FastAPI":
    """The application, with the base model loaded and tested; ``app.state.batcher`` computes.

    Args:
        run: opened run folder.
        limits: limits of requests, batches and the queue.
        hosts: host names that requests may have; None allows any. This refuses a page in a browser whose host name is
            made to resolve to this machine.
        tokens: access tokens; None lets everyone use all models.
        access_log: receives one JSON object per request; None writes none.

    Raises:
        MissingPackageError: fastapi is not installed.
        ModelError: the base model cannot be loaded, or rows cannot be computed together in its architecture.
    """
    import_packages()
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from starlette.exceptions import HTTPException

    writes = task_facts(run.settings.task).model.writes
    worker: Any = (
        Writer(run, max_waiting=limits.max_waiting or WAITING_PROMPTS, max_new_tokens=limits.max_new_tokens)
        if writes
        else make_batcher(run, limits)
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.close)

    named: dict[str, Any] = {"title": "fedlease", "version": __version__, "docs_url": None, "redoc_url": None}
    app = FastAPI(**named, redirect_slashes=False, lifespan=lifespan)
    app.state.batcher = worker

    @app.get("/health", summary="Whether the server runs, and which run it serves.")
    async def health(request: Request) -> dict[str, str | int]:
        if tokens is not None:
            return {"status": "ok"}
        found = {"status": "ok", "run": run.out.resolve().name, "method": run.method, "version": __version__}
        return {**found, "clients": len(run.clients)}

    @app.get("/clients", summary="Every client with its labels.")
    async def clients(request: Request) -> dict[str, list[dict[str, Any]]]:
        mine = [client for client in run.clients.values() if caller_of(request).may(client.id)]
        return {"clients": [{"id": c.id, "task": c.task, "labels": c.labels, "pairs": c.pairs} for c in mine]}

    metrics = _metrics(worker)
    if metrics is not None:

        @app.get("/metrics", summary="Counters in the text form of Prometheus; the administrator's.")
        async def counters() -> Response:
            return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", summary="This page.")
    async def page() -> HTMLResponse:
        return HTMLResponse(render_page(app.openapi(), tokens=tokens is not None), headers=HEADERS)

    (add_chat if writes else add_predict)(app, run, worker, InProgress(limits))
    paths = [*app.openapi()["paths"], "/openapi.json"]

    @app.exception_handler(Refusal)
    async def refusal(request: Request, error: Refusal) -> JSONResponse:
        path, content = request.url.path, dict(error.content)
        if path.startswith("/v1/"):
            code = CODES.get(error.status, "invalid_request_error")
            content = refusal_body(path, content["error"], code, content.get("param"))
        return JSONResponse(content, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        path = printable(request.url.path, longest=200)
        texts = {404: f"no such path: {path}", 405: f"{request.method:.20} is not for {path}"}
        content = refusal_body(request.url.path, texts.get(error.status_code, str(error.detail)))
        more = {"paths": paths} if error.status_code == 404 else {}
        return JSONResponse({**content, **more}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(refusal_body(request.url.path, FAILED, "server_error"), 500)

    # The middleware that is added last runs first.
    app.add_middleware(_Failing)
    if tokens is not None:
        app.add_middleware(OnlyCallers, tokens=tokens)
    if hosts is not None:
        app.add_middleware(_OnlyHosts, hosts=frozenset(hosts))
    app.add_middleware(Observed, paths=paths, metrics=metrics, access_log=access_log)
    return app


def import_packages() -> None:
    """Checks that the packages of the server are installed.

    Raises:
        MissingPackageError: fastapi or uvicorn is not installed.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("fastapi", "fedlease serve", "pip install 'fedlease[serve]'") from error


def _metrics(worker: Any) -> Metrics | None:
    """The counters; None, so that there is no such path, if prometheus-client is not installed."""
    try:
        return Metrics(lambda: worker.waiting, lambda: worker.answers if isinstance(worker, Writer) else worker.batches)
    except ImportError:
        return None


def _log_failure(error: Exception) -> None:
    """Logs an error with its traceback, without messages of foreign code, which may quote a row."""
    places = "".join(traceback.format_tb(error.__traceback__))
    what = printable(str(error), longest=1000) if isinstance(error, FedLeaseError) else type(error).__name__
    log.error("a request failed: %s\n%s", what, places)


class _Failing:
    """Answers a failed request before the web framework does, which would log the error's message."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        begun = False

        async def sending(message: Any) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            if scope["type"] != "http":
                raise
            _log_failure(error)
            if begun:  # closing the connection shows the caller that the response is incomplete
                raise ConnectionError("the answer broke off") from None
            from fastapi.responses import JSONResponse

            await JSONResponse(refusal_body(scope["path"], FAILED, "server_error"), 500)(scope, receive, send)


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
