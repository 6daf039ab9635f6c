"""``POST /predict``: labels with their probabilities, or numbers, by clients' own models."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from fedlease.tasks.base import HeadTask, Task
from fedlease.use.open_run import OpenRun
from fedlease.use.serving.access import caller_of
from fedlease.use.serving.batcher import Batcher, Predictor, QueueFullError
from fedlease.use.serving.bodies import InProgress
from fedlease.use.serving.observe import count
from fedlease.use.serving.requests import (
    ClientPredictions,
    ClientRows,
    Failure,
    Limits,
    Refusal,
    SeveralClients,
    SeveralPredictions,
    read_requests,
    rows_of,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["add_predict", "make_batcher"]


def make_batcher(run: OpenRun, limits: Limits) -> Batcher[Any, dict[str, Any]]:
    """The batcher that computes rows, with the base loaded and tested on two rows."""
    waiting = 4 * limits.max_rows if limits.max_waiting is None else limits.max_waiting
    return Batcher(Predictor(run), max_batch=limits.max_batch, wait_ms=limits.wait_ms, max_waiting=waiting)


def add_predict(app: "FastAPI", run: OpenRun, batcher: Batcher[Any, dict[str, Any]], bodies: InProgress) -> None:
    """Adds the path to the application, and its objects to the description of the service."""
    from fastapi import Request
    from fastapi.responses import JSONResponse

    schema = TypeAdapter(ClientRows | SeveralClients).json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs")
    statuses = (400, 401, 403, 404, 408, 413, 415, 422, 500, 503)
    failures: dict[int | str, Any] = {status: {"model": Failure} for status in statuses}

    @app.post(
        "/predict",
        summary="Labels and probabilities of rows, or numbers, by their clients' own models.",
        responses={200: {"model": ClientPredictions | SeveralPredictions}, **failures},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    )
    async def predict(request: Request) -> JSONResponse:
        async with bodies.of(request) as body:
            asked, several = read_requests(body, bodies.limits.max_rows)
            caller = caller_of(request)
            if others := sorted({one.client for one in asked if not caller.may(one.client)}):
                raise Refusal(403, f"the token is for client {caller.name!r}, received {others[0]!r:.120}")
            places = [f"requests.{i}." if several else "" for i in range(len(asked))]
            rows = [row for one, place in zip(asked, places, strict=True) for row in rows_of(run, one, place)]
            try:
                found = await asyncio.wrap_future(batcher.submit(rows))
            except QueueFullError:
                raise Refusal(503, "too many rows wait", {"Retry-After": "1"}) from None
        counts: dict[str, int] = {}
        for client, _ in rows:
            counts[client] = counts.get(client, 0) + 1
        count(request, counts)
        predictions = iter(found)
        results = [
            {"client": one.client, "predictions": [_reply(run.task, next(predictions)) for _ in one.rows]}
            for one in asked
        ]
        return JSONResponse({"results": results} if several else results[0])

    app.openapi().setdefault("components", {}).setdefault("schemas", {}).update(definitions)


def _reply(task: Task, prediction: Mapping[str, Any]) -> dict[str, Any]:
    """A prediction with the key that responses have for it."""
    assert isinstance(task, HeadTask)
    return {task.answer if name == "prediction" else name: value for name, value in prediction.items()}
