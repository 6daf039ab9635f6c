"""``/v1/models`` and ``/v1/chat/completions``: every client's language model, for programs that call OpenAI's API."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fedlease.core.types import ClientId
from fedlease.errors import InputError
from fedlease.use.open_run import OpenRun
from fedlease.use.serving.access import caller_of
from fedlease.use.serving.batcher import QueueFullError
from fedlease.use.serving.bodies import InProgress
from fedlease.use.serving.chat_requests import ChatRequest, read_chat, row_of_chat
from fedlease.use.serving.observe import count
from fedlease.use.serving.requests import Refusal
from fedlease.use.serving.writer import Answer, Begun, Ended, Event, Failed, Piece, Writer

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["CUT", "add_chat"]

CUT = "x-fedlease-prompt"
"""Header of a response whose prompt was cut, with the value ``cut``."""
LOOK_SECONDS = 1.0
"""Seconds between checks whether a caller that waits for an answer is still connected."""


def add_chat(app: "FastAPI", run: OpenRun, writer: Writer, bodies: InProgress) -> None:
    """Adds the paths to the application."""
    from fastapi import Request
    from fastapi.responses import JSONResponse, Response, StreamingResponse

    since = int(time.time())
    schema = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})

    def described(client: ClientId) -> dict[str, Any]:
        return {"id": client, "object": "model", "created": since, "owned_by": "fedlease"}

    def known(request: Any, client: ClientId) -> ClientId:
        caller = caller_of(request)
        if not caller.may(client):
            raise Refusal(403, f"the token is for the model {caller.name!r}, received {client!r:.120}", param="model")
        if client not in run.clients:
            raise Refusal(404, f"no such model: {client!r:.120}; GET /v1/models lists them", param="model")
        return client

    @app.get("/v1/models", summary="The models: one per client, by its id.")
    async def models(request: Request) -> dict[str, Any]:
        mine = [client for client in run.clients if caller_of(request).may(client)]
        return {"object": "list", "data": [described(client) for client in mine]}

    @app.get("/v1/models/{model:path}", summary="One model.")
    async def one_model(model: str, request: Request) -> dict[str, Any]:
        return described(known(request, model))

    @app.post(
        "/v1/chat/completions",
        summary="The answer of a client's model to a conversation; with stream, piece by piece.",
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    )
    async def chat(request: Request) -> Response:
        async with bodies.of(request) as body:
            asked = read_chat(body)
            client = known(request, asked.model)
            events: asyncio.Queue[Event] = asyncio.Queue()  # at most as many as the answer has tokens
            loop = asyncio.get_running_loop()
            answer = Answer(
                client,
                row_of_chat(asked),
                lambda event: loop.call_soon_threadsafe(events.put_nowait, event),
                _longest(asked, writer),
                asked.temperature or 0.0,
                1.0 if asked.top_p is None else asked.top_p,
                asked.seed,
                asked.stops,
            )
            try:
                writer.submit(answer)
            except QueueFullError:
                raise Refusal(503, "too many prompts wait", {"Retry-After": "1"}) from None
            heard = _heard(request, answer, events)
            begun = await anext(heard)
            assert isinstance(begun, Begun)
            headers = {CUT: "cut"} if begun.cut else {}
            named = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": client}
            if asked.stream:
                lines = _lines(request, asked, named, begun, heard)
                return StreamingResponse(lines, headers=headers, media_type="text/event-stream")
            text = ""
            async for event in heard:
                if isinstance(event, Piece):
                    text += event.text
                elif isinstance(event, Ended):
                    count(request, {client: 1}, (begun.prompt_tokens, event.tokens))
                    message = {"role": "assistant", "content": text, "refusal": None}
                    choice = {"index": 0, "message": message, "finish_reason": event.reason, "logprobs": None}
                    usage = _usage(begun, event)
                    content = {**named, "object": "chat.completion", "choices": [choice], "usage": usage}
                    return JSONResponse(content, headers=headers)
            raise RuntimeError("the answer has no end")

    app.openapi().setdefault("components", {}).setdefault("schemas", {}).update(definitions)


def _longest(asked: ChatRequest, writer: Writer) -> int:
    wanted = asked.max_completion_tokens or asked.max_tokens or min(writer.usual, writer.most)
    if wanted > writer.most:
        raise Refusal(400, f"max_tokens: at most {writer.most}, received {wanted}", param="max_tokens")
    return wanted


async def _heard(request: Any, answer: Answer, events: "asyncio.Queue[Event]") -> AsyncIterator[Event]:
    """The events of an answer up to its end; cancels the answer when its caller has disconnected."""
    try:
        while True:
            try:
                event = await asyncio.wait_for(events.get(), LOOK_SECONDS)
            except TimeoutError:
                if await request.is_disconnected():
                    raise Refusal(400, "the caller has gone") from None
                continue
            if isinstance(event, Failed):
                if isinstance(event.error, InputError):
                    raise Refusal(400, str(event.error).split("\n")[0], param="messages")
                raise event.error
            yield event
            if isinstance(event, Ended):
                return
    finally:
        answer.given_up.set()


async def _lines(
    request: Any, asked: ChatRequest, named: dict[str, Any], begun: Begun, heard: AsyncIterator[Event]
) -> AsyncIterator[str]:
    """The answer as server-sent events."""
    counted = asked.stream_options is not None and asked.stream_options.include_usage

    def line(delta: dict[str, Any] | None, reason: str | None = None, usage: Any = None) -> str:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]
        content = {**named, "object": "chat.completion.chunk", "choices": choices}
        return f"data: {json.dumps(content | ({'usage': usage} if counted else {}))}\n\n"

    yield line({"role": "assistant", "content": ""})
    async for event in heard:
        if isinstance(event, Piece):
            yield line({"content": event.text})
        elif isinstance(event, Ended):
            count(request, {named["model"]: 1}, (begun.prompt_tokens, event.tokens))
            yield line({}, event.reason)
            if counted:
                yield line(None, usage=_usage(begun, event))
            yield "data: [DONE]\n\n"


def _usage(begun: Begun, ended: Ended) -> dict[str, int]:
    both = begun.prompt_tokens + ended.tokens
    return {"prompt_tokens": begun.prompt_tokens, "completion_tokens": ended.tokens, "total_tokens": both}
