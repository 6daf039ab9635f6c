"""fedlease on Flower: the server's strategy, the client app, and what travels between them.

A client: ``clientapp.py`` its Flower app, ``answering.py`` what it answers, ``policy.py`` what it lets its server ask
for, ``request_checks.py`` what it takes from it, ``node.py`` how it works, ``site.py`` with what, ``keep.py`` what it
keeps, ``warm.py`` a process that stays. The server: ``serverapp.py``, ``strategy.py``, ``fleet.py`` clients as the
round loop sees them, ``link.py`` its connection to them, ``replies.py`` and ``checks.py`` what it takes from them.
Between them: ``messages.py`` what they say, ``records.py`` how it travels, ``bounds.py`` how much it may be. On one
machine: ``simulation.py``, and ``memory_grid.py`` without processes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlease.engines.flower.answering import rows_of_node
    from fedlease.engines.flower.clientapp import client_app
    from fedlease.engines.flower.serverapp import server_app
    from fedlease.engines.flower.strategy import FedLeaseStrategy

__all__ = ["FedLeaseStrategy", "client_app", "rows_of_node", "server_app"]

_HOMES = {
    "FedLeaseStrategy": "strategy",
    "client_app": "clientapp",
    "rows_of_node": "answering",
    "server_app": "serverapp",
}


def __getattr__(name: str) -> Any:
    """Loads a public name on first use: a server needs nothing of the client, nor the other way round."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from fedlease.quiet import quiet_libraries

    quiet_libraries()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
