"""What the configuration of a node gives its process; nothing heavy is imported here."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flwr.app import Context

from fedlease.errors import ConfigError

if TYPE_CHECKING:
    from fedlease.config.settings import Settings
    from fedlease.data.federation import ClientData

__all__ = ["LoadClient", "keep_loaded"]

LoadClient = Callable[[Context, "Settings"], "ClientData"]
"""Gives the rows of the client that a node is; the context has its ``node_config``."""


def keep_loaded(config: Mapping[str, Any]) -> float:
    """Seconds for which a node's process stays, from its configuration; 0 without the key.

    Raises:
        ConfigError: they are no number, or negative.
    """
    given = config.get("keep-loaded", 0)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < float("inf"):
        raise ConfigError(f"keep-loaded: must be a number of seconds, 0 or more, received {given!r}")
    return float(given)
