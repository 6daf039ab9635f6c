"""Settings from the arguments of ``fedlease.run``."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from fedlease.config.layers import FILES_OF_ROWS
from fedlease.config.settings import Settings, preset_names, resolve
from fedlease.errors import ConfigError

__all__ = ["settings_of_call"]

TAKES = "the name of a preset, a YAML file, settings by their dotted names, or fedlease.Settings"
ROWS = "rows are given as data, as in fedlease.run(data=ROWS) or fedlease.run(data='my-federation')"
PLAIN = (str, int, float, PurePath, type(None), Mapping, list, tuple)
"""Types of settings. Rows, as lists of mappings, pass here and are refused by the rule of their key."""


def settings_of_call(config: object, overrides: Mapping[str, Any], data: object = None) -> Settings:
    """The settings of a call.

    Args:
        config: a YAML file, the name of a preset, dotted keys with values, settings, or None for the quickstart.
        overrides: dotted keys with values, which replace those of ``config``.
        data: rows, which set ``data.source`` to ``memory``, or the path of files; None if the settings name them.

    Raises:
        ConfigError: ``config`` is none of these, or the settings have faults.
    """
    if data is not None:
        files = isinstance(data, str | os.PathLike)
        overrides = {**overrides, **({"data.path": data} if files else {"data.source": "memory"})}
    named = {**config, **overrides} if isinstance(config, Mapping) else overrides
    if odd := list(_odd(named)):
        raise ConfigError(f"config: settings are numbers, texts and lists of them, but {'; '.join(odd)}; {ROWS}")
    if isinstance(config, Settings):
        return resolve(base=config, overrides=overrides)
    if config is None or isinstance(config, Mapping):
        return resolve(overrides=named)
    if not isinstance(config, str | os.PathLike):
        raise ConfigError(f"config: must be {TAKES}, received a {type(config).__name__}; {ROWS}")
    path = Path(config)
    is_file = path.suffix in (".yaml", ".yml", *FILES_OF_ROWS) or (config != "" and path.exists())
    if isinstance(config, str) and (config in preset_names() or not is_file):
        return resolve(preset=config, overrides=overrides)
    return resolve(path, overrides=overrides)


def _odd(values: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Says what is no setting, where among the others it stands."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _odd(value, f"{prefix}{key}.")
        else:
            found = next(
                (v for v in (value if isinstance(value, list | tuple) else [value]) if not isinstance(v, PLAIN)), None
            )
            if found is not None:
                yield f"{prefix}{key} holds a {type(found).__name__}"
