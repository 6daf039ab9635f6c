"""Every setting with its default, allowed values and meaning, for the docs and ``fedlease settings``."""

import difflib
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fedlease.config.settings import Settings, settings_class
from fedlease.config.tables import SOURCE_GROUP, SOURCES, OneOf
from fedlease.core.plugins import added_names
from fedlease.errors import ConfigError
from fedlease.methods.registry import added_methods

__all__ = ["Explained", "explained", "explained_settings", "find"]

NEAR = 0.6
"""Smallest similarity of a word and a setting, at most 1, for suggesting the setting."""


@dataclass(frozen=True)
class Explained:
    """A setting.

    Attributes:
        key: dotted name.
        default: default value, as in YAML.
        values: allowed values, in Markdown.
        meaning: one line of Markdown.
    """

    key: str
    default: str
    values: str
    meaning: str

    @property
    def group(self) -> str:
        """The key of its group; empty at the top level."""
        return self.key.rpartition(".")[0]


def explained(model: type[BaseModel] = Settings) -> Iterator[Explained]:
    """Every setting of a class, plain ones before groups."""
    for key, field, text in _fields(model):
        meaning = " ".join(text.replace("``", "`").split())
        yield Explained(key, _default(field), _kind(field.annotation, field.metadata), meaning)


def explained_settings() -> list[Explained]:
    """Every setting, including those of methods and sources of usable other packages."""
    rows = {row.key: row for row in explained()}
    added: list[Any] = [{"method": name} for name in sorted(added_methods())]
    added += [{"data": {"source": name}} for name in sorted(added_names(SOURCE_GROUP) - SOURCES.keys())]
    for values in added:
        try:
            rows |= {row.key: row for row in explained(settings_class(values))}
        except ConfigError:
            continue
    return list(rows.values())


def find(rows: Sequence[Explained], word: str) -> list[Explained]:
    """The settings with a word in their key or, if there are none, in their meaning; ``_``, ``-`` and ``.`` are spaces.

    Raises:
        ConfigError: no setting has the word; the message suggests one.
    """
    wanted = _plain(word)
    found = [row for row in rows if wanted in _plain(row.key)] or [row for row in rows if wanted in _plain(row.meaning)]
    if not found:
        by_name = {name: row.key for row in rows for name in (row.key, row.key.rpartition(".")[2])}
        near = difflib.get_close_matches(word.lower(), by_name, n=1, cutoff=NEAR)
        hint = f"; did you mean {by_name[near[0]]!r}?" if near else "; fedlease settings lists all"
        raise ConfigError(f"settings: no setting has {word!r} in its name or meaning{hint}")
    # Whole names first: lr before lr_schedule.
    return sorted(found, key=lambda row: wanted not in (_plain(row.key), _plain(row.key.rpartition(".")[2])))


def _plain(text: str) -> str:
    return text.lower().translate(str.maketrans("_-.", "   ")).replace("`", "").strip()


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """Yields dotted key, field and description, inherited if necessary, of every setting; groups come last."""
    nested = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested.append((name, field.annotation))
        else:
            known = [base.model_fields.get(name) for base in model.__mro__ if issubclass(base, BaseModel)]
            yield prefix + name, field, next((f.description for f in known if f and f.description), "")
    for name, section in nested:
        yield from _fields(section, f"{prefix}{name}.")


def _default(field: FieldInfo) -> str:
    """Writes a value as in YAML."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value)


def _kind(annotation: Any, metadata: Any = ()) -> str:
    """The type in words, with its range."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _kind(inner, [*metadata, *more])
    tables = [rule.func for rule in metadata if isinstance(getattr(rule, "func", None), OneOf)]
    if tables:
        return ", ".join(f"`{choice}`" for choice in tables[0].known())
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join("`null`" if part is type(None) else _kind(part, metadata) for part in get_args(annotation))
    if origin is tuple:
        return f"list of {_kind(get_args(annotation)[0])}"
    names = {int: "integer", float: "number", str: "text", bool: "`true`, `false`"}
    name = names.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())
    return f"{name} {' and '.join(_bounds(metadata))}".strip()


def _bounds(metadata: Any) -> Iterator[str]:
    """Ranges in words."""
    for rule in metadata:
        if isinstance(rule, FieldInfo):
            yield from _bounds(rule.metadata)
        elif isinstance(rule, annotated_types.Ge):
            yield f">= {rule.ge:g}"
        elif isinstance(rule, annotated_types.Gt):
            yield f"> {rule.gt:g}"
        elif isinstance(rule, annotated_types.Le):
            yield f"<= {rule.le:g}"
        elif isinstance(rule, annotated_types.Lt):
            yield f"< {rule.lt:g}"
