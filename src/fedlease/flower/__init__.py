"""fedlease on Flower: the server's strategy, the client app, and what travels between them.

A client: ``client_app.py`` its Flower app, ``handler.py`` what it answers, ``policy.py`` what it lets its server ask
for, ``node.py`` how it works, ``site.py`` with what, ``node_store.py``
what it keeps, ``worker_process.py`` a process that stays. The server: ``server_app.py``, ``strategy.py``,
``transport.py`` clients as the round loop sees them, ``connection.py`` to them, ``replies.py``
what comes back. Between them: ``messages.py`` what they say, ``wire.py`` how it
travels, ``bounds.py`` how much it may be, ``validation.py`` and
``model_validation.py`` what both require. On one machine: ``simulation.py``, and ``memory_grid.py`` without processes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlease.flower.client_app import client_app
    from fedlease.flower.handler import rows_of_node
    from fedlease.flower.server_app import server_app
    from fedlease.flower.strategy import FedLeaseStrategy

__all__ = ["FedLeaseStrategy", "client_app", "rows_of_node", "server_app"]

_HOMES = {
    "FedLeaseStrategy": "strategy",
    "client_app": "client_app",
    "rows_of_node": "handler",
    "server_app": "server_app",
}


def __getattr__(name: str) -> Any:
    """Loads a public name on first use: a server needs nothing of the client, nor the other way round."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from fedlease.reporting.quiet import quiet_libraries

    quiet_libraries()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
