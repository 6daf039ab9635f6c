"""Writes the tables of settings and presets in ``configuration.md``, from ``Settings`` and the shipped YAML files.

``python docs/settings_table.py`` rewrites the file where they have changed; a test says when they have.
"""

import types
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fedlease.config.settings import Settings, preset_names
from fedlease.config.tables import OneOf

PAGE = Path(__file__).parent / "configuration.md"


def with_tables(markdown: str) -> str:
    """The page with its tables as they are to be, each between two comments of its name."""
    for name, write in (("presets-table", presets_table), ("settings-table", settings_table)):
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = markdown.partition(begin)
        markdown = f"{before}{begin}\n\n{write()}\n\n{end}{rest.partition(end)[2]}"
    return markdown


def presets_table() -> str:
    """What each shipped file says about itself: its leading comment, after the commands."""
    rows = ["| Name | What it is |", "| --- | --- |"]
    for name in preset_names():
        text = (resources.files("fedlease.config") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
        comment = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
        prose = " ".join(comment[comment.index("") + 1 :]).replace("|", "\\|")
        rows.append(f"| `{name}` | {prose} |")
    return "\n".join(rows)


def settings_table(model: type[BaseModel] = Settings) -> str:
    """One Markdown section per group of settings."""
    groups: dict[str, list[str]] = {}
    for key, field, text in fields(model):
        group = key.rpartition(".")[0]
        meaning = " ".join(text.replace("``", "`").split())
        cells = (f"`{key}`", f"`{default(field)}`", kind(field.annotation, field.metadata), meaning)
        groups.setdefault(group, []).append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    head = ["| Key | Default | Value | Meaning |", "| --- | --- | --- | --- |"]
    titles = {"": "## The run", **{group: f"## `{group}`" for group in groups if group}}
    return "\n\n".join("\n".join([titles[group], "", *head, *rows]) for group, rows in groups.items())


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """Dotted key, field and its text, which may be that of a group whose defaults are others; plain settings first."""
    nested = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested.append((name, field.annotation))
        else:
            known = [base.model_fields.get(name) for base in model.__mro__ if issubclass(base, BaseModel)]
            yield prefix + name, field, next((f.description for f in known if f and f.description), "")
    for name, section in nested:
        yield from fields(section, f"{prefix}{name}.")


def default(field: FieldInfo) -> str:
    """As it is written in YAML."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value)


def kind(annotation: Any, metadata: Any = ()) -> str:
    """The type in words, with its range."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return kind(inner, [*metadata, *more])
    tables = [rule.func for rule in metadata if isinstance(getattr(rule, "func", None), OneOf)]
    if tables:
        return ", ".join(f"`{choice}`" for choice in tables[0].known())
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join("`null`" if part is type(None) else kind(part, metadata) for part in get_args(annotation))
    if origin is tuple:
        return f"list of {kind(get_args(annotation)[0])}"
    names = {int: "integer", float: "number", str: "text", bool: "`true`, `false`"}
    name = names.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())
    return f"{name} {' and '.join(bounds(metadata))}".strip()


def bounds(metadata: Any) -> Iterator[str]:
    """Ranges in words."""
    for rule in metadata:
        if isinstance(rule, FieldInfo):
            yield from bounds(rule.metadata)
        elif isinstance(rule, annotated_types.Ge):
            yield f">= {rule.ge:g}"
        elif isinstance(rule, annotated_types.Gt):
            yield f"> {rule.gt:g}"
        elif isinstance(rule, annotated_types.Le):
            yield f"<= {rule.le:g}"
        elif isinstance(rule, annotated_types.Lt):
            yield f"< {rule.lt:g}"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
