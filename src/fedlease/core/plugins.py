"""Rows that installed packages add to a table, found by entry points."""

from collections.abc import Collection, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from fedlease.errors import ConfigError

__all__ = ["imported", "installed", "with_installed"]

T = TypeVar("T")


def with_installed(table: Mapping[str, T], group: str) -> dict[str, T]:
    """A table with the rows of installed packages.

    Args:
        table: name -> row.
        group: entry point group; an entry has the name of a row and leads to it.

    Raises:
        ConfigError: a name is taken, or an entry cannot be imported or leads to no row of the table's type.
    """
    rows = dict(table)
    for name, entry in installed(table, group).items():
        row = imported(entry)
        if not isinstance(row, type(next(iter(table.values())))):
            raise ConfigError(f"entry points {group}: {name!r} of {_package(entry)} is {type(row).__name__}")
        rows[name] = row
    return rows


def installed(taken: Collection[str], group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name, none of them loaded.

    Args:
        taken: names that no package may give.
        group: entry point group.

    Raises:
        ConfigError: a name is taken.
    """
    found: dict[str, EntryPoint] = {}
    for entry in _entries(group):
        if entry.name in taken or entry.name in found:
            raise ConfigError(f"entry points {group}: {entry.name!r} of {_package(entry)} is taken; uninstall one")
        found[entry.name] = entry
    return found


def imported(entry: EntryPoint) -> Any:
    """Imports what an entry point names.

    Raises:
        ConfigError: its package fails.
    """
    try:
        return entry.load()
    except Exception as error:  # whatever code of others raises
        reason = f"{type(error).__name__} {error}"
        raise ConfigError(
            f"entry points {entry.group}: {entry.name!r} of {_package(entry)} cannot be imported: {reason}"
        ) from error


def _package(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name if entry.dist is not None else entry.value}"


@cache
def _entries(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))
