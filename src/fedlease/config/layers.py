"""Reading of settings from YAML files and ``key=value`` words, and merging of layers of settings."""

import copy
import re
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from fedlease.errors import ConfigError

__all__ = [
    "FILES_OF_ROWS",
    "MOST_YAML",
    "differences",
    "dump_yaml",
    "group_of",
    "merge",
    "parse_overrides",
    "parse_yaml",
    "read_yaml",
    "unfold",
]

FILES_OF_ROWS = (".csv", ".gz", ".jsonl", ".parquet", ".tsv")
"""Endings of files that hold rows rather than settings."""

MOST_YAML = 2**18
"""Most characters of settings; PyYAML reads some hundred thousand per second."""
MOST_DEPTH = 20
"""Largest depth of nested groups and lists."""


class _Loader(yaml.SafeLoader):
    """A loader with the scalars of YAML 1.2, which refuses duplicate keys and aliases.

    YAML 1.1 reads ``1e-3`` as text, ``no`` as false, ``0123`` as octal and ``2024-01-01`` as a date.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own form)

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # A few lines with aliases can expand to more values than fit into memory.
        if self.check_event(yaml.AliasEvent):
            mark = self.current_event.start_mark
            raise yaml.composer.ComposerError(None, None, "an alias (*name) is not read; write its value", mark)
        if self._depth == MOST_DEPTH:
            mark = self.current_event.start_mark
            raise yaml.composer.ComposerError(None, None, f"values are nested more than {MOST_DEPTH} deep", mark)
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # libyaml: a quarter of the time
    """A dumper that quotes text which either version of YAML would read as another type, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)


def parse_yaml(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        yaml.YAMLError: the text is not YAML, has a key twice or an alias, or exceeds a limit.
    """
    if len(text) > MOST_YAML:
        raise yaml.YAMLError(f"it has more than {MOST_YAML:,} characters")
    return copy.deepcopy(_parsed(text))


@lru_cache(maxsize=4)
def _parsed(text: str) -> Any:
    """The content for :func:`parse_yaml`, cached because a run reads its settings several times, at 20 ms each."""
    try:
        return yaml.load(text, _Loader)
    # Raised for a number with thousands of digits, or a value that does not fit its tag.
    except (ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise yaml.YAMLError(f"a value cannot be read: {type(error).__name__} {error}") from error


def dump_yaml(content: Any) -> str:
    """YAML that :func:`parse_yaml` reads back to the same content."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(path: Path, presets: Collection[str] = ()) -> dict[str, Any]:
    """The settings of a file, with dotted or nested keys.

    Args:
        path: the file.
        presets: names that the caller may have meant instead of a file.

    Raises:
        ConfigError: the file cannot be read; the message has the file and, if known, the line.
    """
    if path.suffix in FILES_OF_ROWS:
        raise ConfigError(f"config: {path} holds rows, not settings; your own rows are given by --set data.path={path}")
    try:
        with path.open(encoding="utf-8") as file:
            content = parse_yaml(file.read(MOST_YAML + 1))
    except IsADirectoryError:
        raise ConfigError(f"config: {path} is a folder; your own rows are given by --set data.path={path}") from None
    except OSError as error:
        hint = f"; did you mean --preset {path}?" if str(path) in presets else ""
        raise ConfigError(f"config: {path} cannot be read: {error.strerror}{hint}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"config: {path} is not UTF-8") from None
    except ValueError as error:  # a name that no file can have
        raise ConfigError(f"config: {str(path)!r} cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"config: {path}{where}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config: {path} is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"config: {path}, line 1: must hold settings as 'key: value' lines, received a {type(content).__name__}"
        )
    return {str(key): value for key, value in content.items()}


def parse_overrides(
    overrides: Mapping[str, Any] | Sequence[str], text_settings: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """Dotted key -> value, and the faults of words that cannot be parsed.

    Args:
        overrides: ``key=value`` words, or a mapping.
        text_settings: keys whose value is always text, so that a folder may be called ``2024``.
    """
    if isinstance(overrides, Mapping):
        return {str(key): value for key, value in overrides.items()}, []
    changes: dict[str, Any] = {}
    faults = []
    for item in overrides:
        key, sign, text = (part.strip() for part in item.partition("="))
        if not sign or not key:
            faults.append(f"--set: must be key=value, received {item!r}")
            continue
        if not text:
            faults.append(f"{key}: --set needs a value, received {item!r}; write {key}=null for none")
            continue
        try:
            value = parse_yaml(text)
        except yaml.YAMLError:
            if key not in text_settings:
                faults.append(f"{key}: the value is not YAML, received {text!r}")
                continue
            value = text
        if key in text_settings and value is not None and not isinstance(value, str):
            value = text
        changes[key] = value
    return changes, faults


def unfold(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings: ``{"lora.r": 4}`` is ``{"lora": {"r": 4}}``."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        nested = merge(nested, value)
    return nested


def group_of(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A group of raw settings; {} if it is missing or not a group, which is reported elsewhere."""
    group = values.get(name)
    return group if isinstance(group, Mapping) else {}


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merges two layers of settings, group by group; values and whole lists of ``above`` replace those of ``below``."""
    merged = dict(below)
    for key, value in above.items():
        mine = merged.get(key)
        merged[key] = merge(mine, value) if isinstance(value, Mapping) and isinstance(mine, Mapping) else value
    return merged


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields dotted keys whose values differ, with both values; None stands for a missing key."""
    for key in dict.fromkeys([*here, *there]):
        mine, other = here.get(key), there.get(key)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            yield from differences(other, mine, f"{prefix}{key}.")
        elif mine != other:
            yield f"{prefix}{key}", other, mine
