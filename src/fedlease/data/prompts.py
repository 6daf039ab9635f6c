"""Rows for generation: a prompt, or a chat, and the response to it. Three forms of a table are known.

    prompt, response            data.columns.prompt and data.columns.response
    messages                    a list of {"role": ..., "content": ...}; in CSV as JSON text
    instruction, output         and optionally input, which follows the instruction after a blank line

The first form whose columns a table has is taken for all of its rows. The last message of a chat is the response, of
the assistant; the one before it is what the user said last, and all before that are turns. Only the first may be of
the system.
"""

import json
import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from fedlease.config import ColumnSettings
from fedlease.data.examples import Example
from fedlease.data.faults import Faults
from fedlease.data.federation import Row
from fedlease.data.rows import Record, Table
from fedlease.data.values import OnFault, place_of, text_fault, text_of

__all__ = ["ROLES", "read_prompt_examples", "read_prompts", "to_prompt_rows", "written_prompts"]

ROLES = ("system", "user", "assistant")
"""Who may speak in a chat."""

MESSAGES = "messages"
INSTRUCTION, INPUT, OUTPUT = "instruction", "input", "output"

Turns = tuple[tuple[str, str], ...]


class Prompt(NamedTuple):
    """What one row asks and what is to be answered.

    Attributes:
        turns: messages before the text.
        text: what the user said last.
        response: the answer; None where it is not asked for.
    """

    turns: Turns
    text: str
    response: str | None


Reader = Callable[[Record, OnFault], Prompt | None]
"""Reads one row; None when it has a fault, which is then told."""


def read_prompt_examples(table: Table, columns: ColumnSettings, faults: Faults, *, in_one_file: bool) -> list[Example]:
    """The usable rows of a table with their responses; what is wrong with the others is added to ``faults``.

    Args:
        table: what a file holds.
        columns: names of the columns.
        faults: collects.
        in_one_file: whether client and split are columns of this file instead of names of folders and files.
    """
    examples = []
    for record, prompt in _read(table, columns, faults, answered=True):
        client, split, task = place_of(record, table, columns, in_one_file=in_one_file)
        examples.append(
            Example(
                table.path,
                record.line,
                prompt.text,
                None,
                "",
                client,
                split,
                task,
                response=prompt.response,
                turns=prompt.turns,
            )
        )
    return examples


def read_prompts(table: Table, columns: ColumnSettings, faults: Faults) -> list[Row]:
    """The prompts of a table whose responses are not known or not asked for; every response is None.

    A chat may end with the user; a last message of the assistant is left out, since it is what is to be answered.

    Args:
        table: what a file holds.
        columns: names of the columns.
        faults: collects what cannot be used; a table with any fault gives fewer rows than it has.
    """
    found = _read(table, columns, faults, answered=False)
    return [Row(p.text, None, 0, turns=p.turns, place=(table.path, record.line)) for record, p in found]


def to_prompt_rows(examples: Iterable[Example]) -> tuple[Row, ...]:
    """Rows with responses; their label is 0, since there are no labels."""
    return tuple(Row(e.text, None, 0, e.response, e.turns, (e.path, e.line)) for e in examples)


def written_prompts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The columns of a file of rows: chats where a row has turns, since a file has one form, else prompts."""
    if not any(row.turns for row in rows):
        return [{"prompt": row.text, "response": row.response} for row in rows]
    said = [(*row.turns, ("user", row.text), ("assistant", row.response)) for row in rows]
    return [{MESSAGES: [{"role": role, "content": content} for role, content in messages]} for messages in said]


def _read(table: Table, columns: ColumnSettings, faults: Faults, *, answered: bool) -> list[tuple[Record, Prompt]]:
    read = _form(table, columns, faults, answered=answered)
    rows = []
    for record in table.records if read else ():

        def fault(column: str, rule: str, line: int = record.line) -> None:
            faults.at(table.path, line, column, rule)

        prompt = read(record, fault) if read else None
        if prompt is not None:
            rows.append((record, prompt))
    return rows


def _form(table: Table, columns: ColumnSettings, faults: Faults, *, answered: bool) -> Reader | None:
    has, there = set(table.columns), ", ".join(map(repr, table.columns))
    # a name that was set means a column of that name: another form must not be taken in its place
    set_here = [
        (key, name)
        for key, name in (("prompt", columns.prompt), ("response", columns.response))
        if name != key and name not in has and (answered or key == "prompt")
    ]
    for key, name in set_here if table.records else ():
        faults.add(f"{table.path}: no column {name!r}; it has {there}: set data.columns.{key}")
    if set_here or not table.records:
        return None
    if columns.prompt in has and (columns.response in has or not answered):
        return _pair_of(columns.prompt, columns.response if answered else None, None)
    if MESSAGES in has:
        return lambda record, fault: _chat(record, fault, answered=answered)
    if INSTRUCTION in has and (OUTPUT in has or not answered):
        return _pair_of(INSTRUCTION, OUTPUT if answered else None, INPUT)
    prompts, outputs = repr(columns.prompt), ""
    if answered:
        prompts, outputs = f"{prompts} and {columns.response!r}", f" and {OUTPUT!r}"
    named = "data.columns.prompt, data.columns.response" if answered else "data.columns.prompt"
    faults.add(
        f"{table.path}: no prompts; it has {there}, but for generation a row has {prompts} ({named}), or {MESSAGES!r}, "
        f"or {INSTRUCTION!r}{outputs} with an optional {INPUT!r}"
    )
    return None


def _pair_of(prompt: str, response: str | None, more: str | None) -> Reader:
    """Reads the prompt and the response from a column each; ``more`` continues the prompt where it is not empty."""

    def read(record: Record, fault: OnFault) -> Prompt | None:
        broken = []

        def told(column: str, rule: str) -> None:
            broken.append(column)
            fault(column, rule)

        text = text_of(record, prompt, told, what="prompt")
        rest = text_of(record, more, told, what="input", required=False) if more else None
        answer = text_of(record, response, told, what="response") if response else None
        if broken or text is None:
            return None
        return Prompt((), text if rest is None else f"{text}\n\n{rest}", answer)

    return read


def _chat(record: Record, fault: OnFault, *, answered: bool) -> Prompt | None:
    if MESSAGES not in record.values:
        fault(MESSAGES, "is missing")
        return None
    value = record.values[MESSAGES]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            fault(MESSAGES, f"messages must be a list, or one as JSON text, got {reprlib.repr(value)}: {error}")
            return None
    if not isinstance(value, list):
        fault(MESSAGES, f'messages must be a list of {{"role": ..., "content": ...}}, got {reprlib.repr(value)}')
        return None
    rules = [(number, _message_fault(number, message)) for number, message in enumerate(value, start=1)]
    broken = [f"message {number}: {rule}" for number, rule in rules if rule]
    turns = () if broken else tuple((message["role"], message["content"]) for message in value)
    if not answered and turns and turns[-1][0] == "assistant":
        turns = turns[:-1]
    broken = broken or _order_faults(turns, answered=answered)
    for rule in broken:
        fault(MESSAGES, rule)
    if broken:
        return None
    response = turns[-1][1] if answered else None
    asked = turns[:-1] if answered else turns
    return Prompt(asked[:-1], asked[-1][1], response)


def _message_fault(number: int, message: object) -> str | None:
    if not isinstance(message, dict):
        return f'must be {{"role": ..., "content": ...}}, got {reprlib.repr(message)}'
    role = message.get("role")
    if role not in ROLES:
        return f"a role must be one of {', '.join(ROLES)}, got {reprlib.repr(role)}"
    if role == "system" and number > 1:
        return "only the first message may be of the system"
    return text_fault(message.get("content"), "content")


def _order_faults(turns: Sequence[tuple[str, str]], *, answered: bool) -> list[str]:
    roles = [role for role, _ in turns]
    if answered and roles[-1:] != ["assistant"]:
        got = f"it is of the {roles[-1]}" if roles else "there is none"
        return [f"the last message is the response and must be of the assistant, but {got}"]
    asked = roles[:-1] if answered else roles
    if asked[-1:] != ["user"]:
        got = f"it is of the {asked[-1]}" if asked else "there is none"
        before = "the message before the response" if answered else "the last message to answer"
        return [f"{before} must be of the user, but {got}"]
    return []
