"""Writes the tables of events in ``listeners.md``, from ``fedlease.server.events``.

``python docs/events_table.py`` rewrites the file where they have changed; a test says when they have.
"""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from fedlease.server.events import Event

PAGE = Path(__file__).parent / "listeners.md"
BEGIN, END = "<!-- events -->", "<!-- end of events -->"


def with_events(markdown: str) -> str:
    """The page with the tables as they are to be, between two comments."""
    before, _, rest = markdown.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{events()}\n\n{END}{rest.partition(END)[2]}"


def events() -> str:
    """A section for each event, in the order in which a run sends them first."""
    return "\n\n".join(map(section, get_args(Event)))


def section(event: type[Any]) -> str:
    """An event and its fields, with the text of each."""
    summary, meanings = described(event)
    rows = [f"| `{item.name}` | `{kind(item.type)}` | {meanings[item.name]} |" for item in fields(event)]
    return "\n".join(
        [f"### {event.__name__}", "", summary, "", "| Field | Type | Meaning |", "| --- | --- | --- |", *rows]
    )


def described(event: type[Any]) -> tuple[str, dict[str, str]]:
    """The first sentence of an event, and field -> meaning, from its docstring."""
    summary, _, attributes = (event.__doc__ or "").partition("Attributes:")
    texts = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", attributes, re.MULTILINE)
    return markdown_of(summary), {name: markdown_of(text) for name, text in texts}


def markdown_of(text: str) -> str:
    """A docstring's text, without roles."""
    plain = re.sub(r":\w+:`([^`]+)`", r"`\1`", " ".join(text.split()))
    return plain.replace("``", "`").replace("|", "\\|")


def kind(annotation: Any) -> str:
    """A type as it is written."""
    text = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    return re.sub(r"(?:\w+\.)+(?=\w)", "", text)


if __name__ == "__main__":
    PAGE.write_text(with_events(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
