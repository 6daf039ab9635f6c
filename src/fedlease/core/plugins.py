"""Rows that installed packages add to a table, found by entry points."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from fedlease.errors import ConfigError

__all__ = ["with_installed"]

T = TypeVar("T")


def with_installed(table: Mapping[str, T], group: str) -> dict[str, T]:
    """A table with the rows of installed packages.

    Args:
        table: name -> row.
        group: entry point group; an entry has the name of a row and leads to it.

    Raises:
        ConfigError: a name is taken, or an entry leads to no row of the table's type.
    """
    rows = dict(table)
    for entry in _entries(group):
        package = entry.dist.name if entry.dist is not None else entry.value
        if entry.name in rows:
            raise ConfigError(f"entry points {group}: {entry.name!r} of the package {package} is taken; uninstall one")
        row = entry.load()
        if not isinstance(row, type(next(iter(table.values())))):
            raise ConfigError(f"entry points {group}: {entry.name!r} of the package {package} is {type(row).__name__}")
        rows[entry.name] = row
    return rows


@cache
def _entries(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))
