"""Table rows that installed packages add through entry points; each is imported when it is needed."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from fedlease.errors import ConfigError

__all__ = ["added", "added_names", "package_versions", "plugin_faults", "row_of", "with_installed"]

T = TypeVar("T")


def row_of(table: Mapping[str, T], group: str, name: str) -> T:
    """One row of a table, or of a package that adds it.

    Raises:
        KeyError: no such row.
        ConfigError: as :func:`added`.
    """
    row = added(table, group, name, type(next(iter(table.values()))))
    return table[name] if row is None else row


def with_installed(table: Mapping[str, T], group: str) -> dict[str, T]:
    """A table with the usable rows of installed packages; :func:`plugin_faults` tells of the others.

    Args:
        table: name -> row.
        group: entry point group; each entry has the name of a row and refers to the row.
    """
    rows = dict(table)
    for name in sorted(added_names(group) - table.keys()):
        with suppress(ConfigError):
            rows[name] = row_of(table, group, name)
    return rows


def plugin_faults(taken: Collection[str], group: str, kind: type[Any]) -> dict[str, str]:
    """Name -> reason, for every row of an installed package that cannot be used."""
    found = {}
    for name in sorted(added_names(group)):
        try:
            added(taken, group, name, kind)
        except ConfigError as error:
            found[name] = str(error)
    return found


def added_names(group: str) -> set[str]:
    """The names that installed packages add to a group; nothing is imported, so a name may turn out unusable."""
    return {entry.name for entry in _entries(group)}


def added(taken: Collection[str], group: str, name: str, kind: type[T]) -> T | None:
    """Imports the row that a package adds under a name; None if no package adds the name.

    Args:
        taken: names that no package may add.
        group: entry point group.
        name: of the row.
        kind: type of a row.

    Raises:
        ConfigError: the name is taken, two packages add it, its package cannot be imported, or it refers to something
            other than a row.
    """
    entries = [entry for entry in _entries(group) if entry.name == name]
    if not entries:
        return None
    if name in taken or len(entries) > 1:
        raise _fault(entries[-1], "is taken; uninstall one")
    try:
        row = entries[0].load()
    except (Exception, SystemExit) as error:  # whatever code of others raises
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise _fault(entries[0], f"cannot be imported: {reason}") from error
    if not isinstance(row, kind):
        raise _fault(entries[0], f"is {type(row).__name__}, and must be {kind.__name__}")
    return row


def package_versions(used: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Package -> version, for every package that adds something that is used.

    Args:
        used: entry point group -> names.
    """
    entries = [entry for group, names in used.items() for entry in _entries(group) if entry.name in names]
    return {entry.dist.name: entry.dist.version for entry in entries if entry.dist is not None}


def _fault(entry: EntryPoint, what: str) -> ConfigError:
    package = entry.dist.name if entry.dist is not None else entry.value
    return ConfigError(f"entry points {entry.group}: {entry.name!r} of the package {package} {what}")


@cache
def _entries(group: str) -> tuple[EntryPoint, ...]:
    """Every entry of a group once, even if its package is found in two places on the path."""
    found = {(entry.name, entry.value, entry.dist and entry.dist.name): entry for entry in entry_points(group=group)}
    return tuple(found.values())
