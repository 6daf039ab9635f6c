"""Sections of settings for methods and sources of other packages, checked like those of this package.

The section of a method has the method's name, with ``_`` for ``-``; that of a source is within ``data``.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import create_model

from fedlease.config.sections import Section
from fedlease.config.tables import SOURCE_GROUP, SOURCES, source_facts
from fedlease.core.plugins import added_names
from fedlease.errors import ConfigError
from fedlease.methods.registry import GROUP, added_methods, method_facts

__all__ = ["section_of", "with_sections"]

S = TypeVar("S", bound=Section)


def section_of(method: str) -> str:
    """The key of a method's or source's own section."""
    return method.replace("-", "_")


def with_sections(settings: type[S], values: Any) -> type[S]:
    """The class of settings, extended by a section for every added method or source that the values use.

    Args:
        settings: the class without them.
        values: nested or resolved values, checked or not; only their keys, ``method``, ``baselines`` and
            ``data.source`` matter.

    Raises:
        ConfigError: the package that adds a method or source cannot be used, or its settings are not a section with
            defaults.
    """
    values = values if isinstance(values, Mapping) else {}
    baselines = values.get("baselines")
    named = [values.get("method"), *(baselines if isinstance(baselines, list | tuple) else ())]
    sections = dict[str, type[Section]](_sections(settings, values, GROUP, added_methods(), named, method_facts))
    data, rows = values.get("data"), settings.model_fields["data"].annotation
    if isinstance(data, Mapping) and isinstance(rows, type) and issubclass(rows, Section):
        sources = added_names(SOURCE_GROUP) - SOURCES.keys()
        own = _sections(rows, data, SOURCE_GROUP, sources, [data.get("source")], source_facts)
        if found := tuple(own):
            sections["data"] = _extended(rows, found)
    return _extended(settings, tuple(sections.items())) if sections else settings


def _sections(
    within: type[Section],
    values: Mapping[str, Any],
    group: str,
    added: Collection[str],
    named: Collection[Any],
    facts_of: Callable[[str], Any],
) -> Iterator[tuple[str, type[Section]]]:
    """Yields key and class of the section of every added row that is named, or whose key is among the values."""
    for name in sorted(added):
        key, taken = section_of(name), section_of(name) in within.model_fields
        if name in named or (key in values and not taken):
            facts, wrong = facts_of(name), ""
            section = facts.settings if facts is not None else None
            if taken:
                wrong = f"is taken: {key} is a setting"
            elif section is not None and not (isinstance(section, type) and issubclass(section, Section)):
                wrong = "has settings that are no fedlease.config.sections.Section"
            elif section is not None:
                needed = [field for field, kind in section.model_fields.items() if kind.is_required()]
                wrong = f"has settings without a default: {', '.join(needed)}" if needed else ""
            if wrong:
                raise ConfigError(f"entry points {group}: {name!r} {wrong}")
            if section is not None:
                yield key, section


@cache
def _extended(settings: type[S], sections: tuple[tuple[str, type[Section]], ...]) -> type[S]:
    fields: dict[str, Any] = {key: (section, section()) for key, section in sections}
    return create_model(settings.__name__, __base__=settings, **fields)
