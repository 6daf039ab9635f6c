"""Reads rows for generation: a prompt or a chat, and the response to it. A table may have these columns:

    prompt, response            data.columns.prompt and data.columns.response; or completion instead of response
    messages, conversations     a list of {"role": ..., "content": ...} or {"from": ..., "value": ...}; in CSV as JSON
    instruction, output         and optionally input, which follows the instruction after a blank line

All rows of a table are read in the first of these forms whose columns it has. A prompt may also be a list of messages,
and a response a list of one message. In a chat the last message is the assistant's response. The message before it is
from the user or a tool and becomes the row's text; earlier messages become its turns. Only the first message may be
from the system.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fedlease.config.data import ColumnSettings
from fedlease.data.dropped import Dropped
from fedlease.data.faults import Faults, quoted, shown
from fedlease.data.federation import Row
from fedlease.data.reading.examples import Example, missing_column
from fedlease.data.reading.rows import Record, Table
from fedlease.data.reading.values import OnFault, place_of, text_fault, text_of

__all__ = ["ROLES", "read_answered", "read_prompt_examples", "read_prompts", "written_prompts"]

NAMES = {
    "system": ("system", "developer"),
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "chatgpt", "bot", "model", "function_call"),
    "tool": ("tool", "function", "observation", "function_response", "ipython"),
}
"""Role in a chat -> the names that various formats have for it."""

ROLES = tuple(NAMES)

CHATS = ("messages", "conversations")
COMPLETION = "completion"
INSTRUCTION, INPUT, OUTPUT = "instruction", "input", "output"

Turns = tuple[tuple[str, str], ...]

Reader = Callable[[Record, OnFault], Row | None]
"""Reads one row, without its place; a row whose faults were reported must not be used."""


def read_prompt_examples(table: Table, columns: ColumnSettings, faults: Faults) -> list[Example]:
    """The usable rows of a table with their responses; faults of the others are added to ``faults``."""
    return [
        Example(row, (table.path, record.line), (), *place_of(record, table, columns))
        for record, row in _read(table, columns, faults, answered=True)
    ]


def read_answered(table: Table, columns: ColumnSettings) -> list[Row | None]:
    """Rows of a table with their responses, in the table's order; None for a row without response or with a fault."""
    found: list[Row | None] = []
    for record in table.records:
        # Records are read one by one, since several on one line of JSON have the same place.
        read = _read(replace(table, records=(record,)), columns, Faults(Dropped()), answered=True)
        found.append(next((row for _, row in read), None))
    return found


def read_prompts(table: Table, columns: ColumnSettings, faults: Faults) -> list[Row]:
    """The usable rows of a table, without their responses; faults of the others are added to ``faults``.

    A chat may end with a message of the user; if it ends with one of the assistant, that message is left out.
    """
    return [row for _, row in _read(table, columns, faults, answered=False)]


def written_prompts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as records of a file: all as chats if some row has turns, otherwise as prompts and responses."""
    if not any(row.turns or row.role != "user" for row in rows):
        return [{"prompt": row.text, "response": row.response} for row in rows]
    chats = [(*row.turns, (row.role, row.text), ("assistant", row.response)) for row in rows]
    return [{CHATS[0]: [{"role": role, "content": content} for role, content in messages]} for messages in chats]


def _read(table: Table, columns: ColumnSettings, faults: Faults, *, answered: bool) -> Iterator[tuple[Record, Row]]:
    if (read := _form(table, columns, faults, answered=answered)) is None:
        return
    for record in table.records:
        fault = faults.row(table.path, record.line)
        row = read(record, fault)
        if row is not None and not fault.broken:
            yield record, replace(row, place=(table.path, record.line))


def _form(table: Table, columns: ColumnSettings, faults: Faults, *, answered: bool) -> Reader | None:
    has = set(table.columns)
    response = columns.response
    if response == "response" and response not in has and COMPLETION in has:
        response = COMPLETION
    # a name that was set must be a column: no other form may be read instead
    set_here = [
        (key, name)
        for key, name in (("prompt", columns.prompt), ("response", columns.response))
        if name != key and name not in has and (answered or key == "prompt")
    ]
    for key, name in set_here if table.records else ():
        missing_column(table, name, f"set data.columns.{key}", faults)
    if set_here or not table.records:
        return None
    if columns.prompt in has and (response in has or not answered):
        pair = partial(_pair, prompt=columns.prompt, more=None)
        return partial(pair, response=response if answered else None, typed=table.typed)
    for column in CHATS:
        if column in has:
            return partial(_chat, column=column, answered=answered)
    if INSTRUCTION in has and (OUTPUT in has or not answered):
        pair = partial(_pair, prompt=INSTRUCTION, more=INPUT)
        return partial(pair, response=OUTPUT if answered else None, typed=table.typed)
    prompts, outputs = repr(columns.prompt), ""
    if answered:
        prompts, outputs = f"{prompts} and {columns.response!r}", f" and {OUTPUT!r}"
    named = "data.columns.prompt, data.columns.response" if answered else "data.columns.prompt"
    rule = (
        f"no prompts; it has {quoted(table.columns)}, but for generation a row has {prompts} ({named}), "
        f"or {' or '.join(map(repr, CHATS))}, or {INSTRUCTION!r}{outputs} with an optional {INPUT!r}"
    )
    faults.of_file(table.path, rule, "no prompts", apart=1)
    return None


def _pair(
    record: Record, fault: OnFault, *, prompt: str, response: str | None, more: str | None, typed: bool
) -> Row | None:
    """Reads prompt and response from one column each; text in the column ``more`` is appended to the prompt."""
    if _is_chat(record.values.get(prompt), typed=typed):
        answer = _answer(record, response, fault, typed=typed) if response else None
        return _chat(record, fault, column=prompt, answered=response is not None, answer=answer or "")
    text = text_of(record, prompt, fault, what="prompt") or ""
    rest = text_of(record, more, fault, what="input", required=False) if more else None
    answer = _answer(record, response, fault, typed=typed) if response else None
    return Row(text if rest is None else f"{text}\n\n{rest}", None, 0, answer)


def _is_chat(value: object, *, typed: bool) -> bool:
    """Whether a prompt or a response is a list of messages, which in CSV is JSON text."""
    return isinstance(value, list) or (not typed and isinstance(value, str) and value.lstrip().startswith("[{"))


def _answer(record: Record, column: str, fault: OnFault, *, typed: bool) -> str | None:
    value = record.values.get(column)
    if not _is_chat(value, typed=typed):
        return text_of(record, column, fault, what="response")
    turns, broken = _messages(value)
    if not broken and [role for role, _ in turns] != ["assistant"]:
        broken = [f"a response must be one message of the assistant, got {shown([role for role, _ in turns])}"]
    for rule in broken:
        fault(column, rule)
    return None if broken else turns[0][1]


def _chat(record: Record, fault: OnFault, *, column: str, answered: bool, answer: str | None = None) -> Row | None:
    """Reads a chat; ``answer`` is a response from a column of its own."""
    if column not in record.values:
        fault(column, "is missing")
        return None
    turns, broken = _messages(record.values[column])
    if not answered:
        turns = turns[:-1] if turns and turns[-1][0] == "assistant" else turns
    elif answer is not None:
        turns = (*turns, ("assistant", answer))
    broken = broken or _order_faults(turns, answered=answered)
    for rule in broken:
        fault(column, rule)
    if broken:
        return None
    asked, response = (turns[:-1], turns[-1][1]) if answered else (turns, None)
    return Row(asked[-1][1], None, 0, response, asked[:-1], asked[-1][0])


def _messages(value: object) -> tuple[Turns, list[str]]:
    """The messages of a chat as (role, content), and their faults.

    ``value`` is a list of messages, or such a list as JSON text. A content that is a list of parts becomes their texts,
    one per line. A message without text that calls tools becomes its calls, one JSON object per line.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            return (), [f"messages must be a list, or a list as JSON text, got {shown(value)}: {error}"]
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


def _order_faults(turns: Sequence[tuple[str, str]], *, answered: bool) -> list[str]:
    """Faults in the order of a chat: the response must be the assistant's and follow a message of the user or a tool.

    ``answered`` says whether the last message is the response, or the message to respond to.
    """
    roles = [role for role, _ in turns]
    if answered and roles[-1:] != ["assistant"]:
        got = f"it is from the {roles[-1]}" if roles else "there is none"
        return [f"the last message is the response and must be from the assistant, but {got}"]
    asked = roles[:-1] if answered else roles
    if asked and asked[-1] in ("user", "tool"):
        return []
    got = f"it is from the {asked[-1]}" if asked else "there is none"
    before = "the message before the response" if answered else "the last message"
    return [f"{before} must be from the user or a tool, but {got}"]


def _message(number: int, message: object) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise ValueError(f'must be {{"role": ..., "content": ...}}, got {shown(message)}')
    spoken = ("role", "content") if message.get("role") is not None else ("from", "value")
    role, content = message.get(spoken[0]), message.get(spoken[1])
    named = next((known for known, names in NAMES.items() if role in names), None)
    if named is None:
        raise ValueError(f"a role must be one of {', '.join(ROLES)}, got {shown(role)}")
    if named == "system" and number > 1:
        raise ValueError("only the first message may be from the system")
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
        raise ValueError(f"only text is read, and part {number} of its content has the type {shown(kind)}")
    if rule := text_fault(text, "part of a content"):
        raise ValueError(f"part {number} of its content: {rule}")
    return str(text)
