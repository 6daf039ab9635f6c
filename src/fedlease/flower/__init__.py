"""Runs rounds over many machines with Flower: messages, their checks, and the rules of nodes.

Methods and training do not belong here: a node passes requests to the worker of ``client``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlease.flower.clientapp import client_app
    from fedlease.flower.handler import rows_of_node
    from fedlease.flower.serverapp import server_app
    from fedlease.flower.strategy import FedLeaseStrategy

__all__ = ["FedLeaseStrategy", "client_app", "rows_of_node", "server_app"]

_HOMES = {
    "FedLeaseStrategy": "strategy",
    "client_app": "clientapp",
    "rows_of_node": "handler",
    "server_app": "serverapp",
}


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that a server does not import the client's modules, and vice versa."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from fedlease.reporting.quiet import quiet_libraries

    quiet_libraries()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
