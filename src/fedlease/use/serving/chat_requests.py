"""Reads requests for chat completions in the form of OpenAI's API; refuses unsupported fields by name."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedlease.data.federation import Row
from fedlease.use.serving.requests import MAX_CHARACTERS, Refusal, parse_body

__all__ = ["ChatRequest", "read_chat", "row_of_chat"]

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
"""Unsupported field that may change an answer -> values with which it changes nothing; others are refused."""

IGNORED = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "parallel_tool_calls", "reasoning_effort", "verbosity",
)  # fmt: skip
"""Fields that are ignored, since they would not change an answer."""


def _text(text: str) -> str:
    text.encode()  # raises ValueError for a lone surrogate, which JSON allows but tokenisers do not
    return text


Text = Annotated[str, Field(max_length=MAX_CHARACTERS), AfterValidator(_text)]
Stop = Annotated[str, Field(min_length=1, max_length=100)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Part(_Strict):
    type: Literal["text"]
    text: Text


class _Message(_Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[_Part], Field(min_length=1, max_length=64)]
    name: Annotated[str, Field(max_length=200)] | None = None
    tool_call_id: Annotated[str, Field(max_length=200)] | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class _StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(_Strict):
    """A conversation with the model of the client whose id is ``model``."""

    model: Annotated[str, Field(max_length=1000)]
    messages: Annotated[list[_Message], Field(min_length=1, max_length=256)]
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def read_chat(body: bytes) -> ChatRequest:
    """Reads the request in a body.

    Raises:
        Refusal: 400, with ``param``, if it is not JSON, has another form, or has unsupported fields.
    """
    data = parse_body(body)
    if isinstance(data, dict):
        for name, neutral in NEUTRAL.items():
            value = data.pop(name, None)
            if value is not None and value not in neutral:
                raise Refusal(400, f"{name} is not supported by this server, received {value!r:.100}", param=name)
        data = {name: value for name, value in data.items() if name not in IGNORED}
    try:
        return ChatRequest.model_validate(data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ascii(".".join(map(str, fault["loc"])))[1:-1][:200]
        raise Refusal(400, f"{where}: {fault['msg']}" if where else fault["msg"], param=where or None) from None


def row_of_chat(asked: ChatRequest) -> Row:
    """The conversation as a row: the last message, which is answered, and the messages before it as turns.

    Raises:
        Refusal: 400 if the last message is blank or not from the user or a tool, or if a message from the system is not
            the first one.
    """
    roles = {"developer": "system"}
    turns = tuple((roles.get(message.role, message.role), message.text) for message in asked.messages)
    role, text = turns[-1]
    last = len(turns) - 1
    if role not in ("user", "tool"):
        raise Refusal(400, f"messages.{last}.role: the last must be user or tool, received {role!r}", param="messages")
    if not text.strip():
        raise Refusal(400, f"messages.{last}.content: must not be empty", param="messages")
    for i, (role_, _) in enumerate(turns):
        if role_ == "system" and i:
            raise Refusal(400, f"messages.{i}.role: only the first message may be system", param="messages")
    return Row(text, None, 0, turns=turns[:-1], role=role)
