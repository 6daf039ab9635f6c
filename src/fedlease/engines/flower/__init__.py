"""fedlease on Flower: the server's strategy, the client app, and what travels between them.

``records.py`` what a message holds, ``node.py`` a client, ``client_app.py`` its Flower app, ``link.py`` the server's
connection to nodes, ``fleet.py`` clients as the round loop sees them, ``strategy.py`` and ``server_app.py`` the server,
``simulation.py`` all of it on one machine, ``memory_grid.py`` without processes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlease.engines.flower.client_app import client_app
    from fedlease.engines.flower.server_app import server_app
    from fedlease.engines.flower.strategy import FedLeaseStrategy

__all__ = ["FedLeaseStrategy", "client_app", "server_app"]

_HOMES = {"FedLeaseStrategy": "strategy", "client_app": "client_app", "server_app": "server_app"}


def __getattr__(name: str) -> Any:
    """Loads a public name on first use: a server needs nothing of the client, nor the other way round."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
