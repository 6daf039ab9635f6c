"""Sections of settings for the methods that other packages add: checked as ours are, and there where they are used.

A method's settings stand under its name, with ``_`` for ``-``.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import create_model

from fedlease.config.sections import Section
from fedlease.errors import ConfigError
from fedlease.methods.registry import GROUP, added_methods, method_facts

__all__ = ["section_of", "with_sections"]

S = TypeVar("S", bound=Section)


def section_of(method: str) -> str:
    """The key under which a method's own settings stand."""
    return method.replace("-", "_")


def with_sections(settings: type[S], values: Any) -> type[S]:
    """The class of settings, with a section for every added method that the values name or have a section for.

    Args:
        settings: the class without them.
        values: nested or resolved values, checked or not; only their keys, ``method`` and ``baselines`` are looked at.

    Raises:
        ConfigError: the package of such a method cannot be used, or its settings are no section with defaults.
    """
    values = values if isinstance(values, Mapping) else {}
    baselines = values.get("baselines")
    named = [values.get("method"), *(baselines if isinstance(baselines, list | tuple) else ())]
    sections = {}
    for method in sorted(added_methods()):
        key, taken = section_of(method), section_of(method) in settings.model_fields
        if method in named or (key in values and not taken):
            section = _section_class(method, taken=taken)
            if section is not None:
                sections[key] = section
    return _extended(settings, tuple(sections.items())) if sections else settings


def _section_class(method: str, *, taken: bool) -> type[Section] | None:
    """The class of an added method's settings, once it is known to be usable."""
    facts, wrong = method_facts(method), ""
    section = facts.settings if facts is not None else None
    if taken:
        wrong = f"is taken: {section_of(method)} is a setting"
    elif section is not None and not (isinstance(section, type) and issubclass(section, Section)):
        wrong = "has settings that are no fedlease.config.sections.Section"
    elif section is not None and (needed := [n for n, field in section.model_fields.items() if field.is_required()]):
        wrong = f"has settings without a default: {', '.join(needed)}"
    if wrong:
        raise ConfigError(f"entry points {GROUP}: {method!r} {wrong}")
    return section


@cache
def _extended(settings: type[S], sections: tuple[tuple[str, type[Section]], ...]) -> type[S]:
    fields: dict[str, Any] = {key: (section, section()) for key, section in sections}
    return create_model(settings.__name__, __base__=settings, **fields)
