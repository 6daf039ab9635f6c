"""Reads a node's rules from its configuration and from ``node.yaml`` beside its rows, never from a message."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fedlease.config.data import ColumnSettings
from fedlease.config.faults import nearest, sentences
from fedlease.config.layers import MOST_YAML, parse_yaml, unfold
from fedlease.errors import ConfigError
from fedlease.flower.policy import NodePolicy

__all__ = ["FILE", "policy_of"]

FILE = "node.yaml"

LISTS = ("data_folders", "models", "uploads")
"""Rules whose values are lists; in a node's configuration these are texts with commas."""

_NAMES = {name.replace("_", "-"): name for name in NodePolicy.model_fields if name != "columns"} | {
    f"columns.{name}": f"columns.{name}" for name in ColumnSettings.model_fields
}


def policy_of(node_config: Mapping[str, Any]) -> NodePolicy:
    """A node's rules, read anew for every message, so that a change takes effect at once.

    Args:
        node_config: the node's configuration; keys have dashes, and dots for columns: ``columns.text``. ``rules`` names
            the file with rules, by default ``node.yaml`` in ``data-dir`` if it exists.

    Raises:
        ConfigError: a value is out of range, a key is not the name of a rule, or a rule is in both places.
    """
    faults, given = [], dict[str, Any]()
    for key, value in node_config.items():
        if key in _NAMES:
            listed = _NAMES[key] in LISTS and isinstance(value, str)
            given[_NAMES[key]] = [part.strip() for part in value.split(",") if part.strip()] if listed else value
        elif key.startswith(("max-", "columns.")):
            faults.append(f"node-config: {key}: no such rule of a node{nearest(key, _NAMES)}")
    path, own = _place(node_config), dict[str, Any]()
    for key, value in _content(path).items() if path is not None else ():
        # keep-loaded is needed before this file is read, so it must be in the configuration
        if key not in _NAMES or key == "keep-loaded":
            faults.append(f"{FILE}: {key}: no such rule of a node{nearest(key, _NAMES)}")
        elif _NAMES[key] in given:
            faults.append(f"{FILE}: {key}: it is in node-config too; give it once")
        else:
            own[_NAMES[key]] = value
    try:
        made = NodePolicy.model_validate(unfold({**given, **own}))
    except ValidationError as error:
        keys = {name: key for key, name in _NAMES.items()}
        for sentence in sentences(error, NodePolicy):
            name, colon, rest = sentence.partition(":")
            where = FILE if name.split(".")[0] in own or name in own else "node-config"
            faults.append(f"{where}: {keys.get(name, name)}{colon}{rest}")
    if faults:
        raise ConfigError(faults)
    return made


def _place(node_config: Mapping[str, Any]) -> Path | None:
    """The file with a node's rules, or None."""
    if "rules" in node_config:
        return Path(str(node_config["rules"])).expanduser()
    if "data-dir" not in node_config:
        return None
    path = Path(str(node_config["data-dir"])).expanduser() / FILE
    return path if path.is_file() else None


def _content(path: Path) -> dict[str, Any]:
    """Rule -> value, with ``columns.text`` for ``columns: {text: ...}``."""
    try:
        with path.open(encoding="utf-8") as file:
            found = parse_yaml(file.read(MOST_YAML + 1))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{FILE}: {str(path)!r} cannot be read: {' '.join(str(error).split())}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{FILE}: {str(path)!r} must have rules, as in max-rank: 16")
    flat = dict[str, Any]()
    for key, value in found.items():
        inner = value if key == "columns" and isinstance(value, dict) else None
        flat |= {str(key): value} if inner is None else {f"columns.{name}": inner[name] for name in inner}
    return flat
