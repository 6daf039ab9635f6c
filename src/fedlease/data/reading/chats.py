"""Chats in the forms that others write: messages of ``role`` and ``content``, or of ``from`` and ``value``."""

import json
from collections.abc import Sequence

from fedlease.data.faults import shown
from fedlease.data.reading.values import text_fault

__all__ = ["ROLES", "Turns", "chat_of", "order_faults"]

ROLES = ("system", "user", "assistant", "tool")
"""Roles of the messages of a chat."""

OTHER_NAMES = {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "ipython": "tool",
}
"""Names of other formats for these roles."""

Turns = tuple[tuple[str, str], ...]


def chat_of(value: object) -> tuple[Turns, list[str]]:
    """The messages of a chat as (role, content), and what is wrong with them.

    ``value`` is a list of messages, or one as JSON text. Contents that are lists of parts become their texts, one per
    line. A message without text that calls tools has its calls as text, one JSON object per line.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            return (), [f"messages must be a list, or one as JSON text, got {shown(value)}: {error}"]
    if not isinstance(value, list):
        form = 'a list of {"role": ..., "content": ...} or of {"from": ..., "value": ...}'
        return (), [f"messages must be {form}, got {shown(value)}"]
    turns, broken = [], []
    for number, message in enumerate(value, start=1):
        try:
            turns.append(_message(number, message))
        except ValueError as error:
            broken.append(f"message {number}: {error}")
    return (() if broken else tuple(turns)), broken


def order_faults(turns: Sequence[tuple[str, str]], *, answered: bool) -> list[str]:
    """Why a chat has no place for a response: it must follow the user or a tool, and be the last of the assistant.

    ``answered`` says whether the last message is the response; else it is what is to be answered.
    """
    roles = [role for role, _ in turns]
    if answered and roles[-1:] != ["assistant"]:
        got = f"it is of the {roles[-1]}" if roles else "there is none"
        return [f"the last message is the response and must be of the assistant, but {got}"]
    asked = roles[:-1] if answered else roles
    if not asked or asked[-1] not in ("user", "tool"):
        got = f"it is of the {asked[-1]}" if asked else "there is none"
        before = "the message before the response" if answered else "the last message to answer"
        return [f"{before} must be of the user, but {got}"]
    return []


def _message(number: int, message: object) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise ValueError(f'must be {{"role": ..., "content": ...}}, got {shown(message)}')
    spoken = ("role", "content") if message.get("role") is not None else ("from", "value")
    role, content = message.get(spoken[0]), message.get(spoken[1])
    named = OTHER_NAMES.get(role, role) if isinstance(role, str) else None
    if named not in ROLES:
        raise ValueError(f"a role must be one of {', '.join(ROLES)}, got {shown(role)}")
    if named == "system" and number > 1:
        raise ValueError("only the first message may be of the system")
    if isinstance(content, list):
        content = "\n".join(_part(place, part) for place, part in enumerate(content, start=1))
    calls = message.get("tool_calls") or message.get("function_call")
    if calls and (content is None or content == ""):
        made = calls if isinstance(calls, list) else [calls]
        called = [call.get("function", call) if isinstance(call, dict) else call for call in made]
        content = "\n".join(json.dumps(call, ensure_ascii=False, default=str) for call in called)
    if rule := text_fault(content, "content"):
        raise ValueError(rule)
    return named, str(content)


def _part(number: int, part: object) -> str:
    kind, text = (part.get("type", "text"), part.get("text")) if isinstance(part, dict) else ("text", part)
    if kind not in ("text", "input_text", "output_text"):
        raise ValueError(f"only text is read, and part {number} of its content is of the type {shown(kind)}")
    if rule := text_fault(text, "part of a content"):
        raise ValueError(f"part {number} of its content: {rule}")
    return str(text)
