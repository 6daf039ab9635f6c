"""A client: its rows, and fedlease around them.

Flower imports this module for every message: what takes long to import is better imported in `load`.
"""

from typing import TYPE_CHECKING

from flwr.app import Context

from fedlease.flower import client_app

if TYPE_CHECKING:
    from fedlease.config.settings import Settings
    from fedlease.data.federation import ClientData


def load(context: Context, settings: "Settings") -> "ClientData":
    """The rows of this node.

    As written: the train and test files in the folder that ``data-dir`` of the node's configuration names, or, in a
    simulation, the client of that number in ``data.path``. Rows from elsewhere, a database for example, are read here
    and returned as a ``ClientData``; they stay in this process.
    """
    from fedlease.flower import rows_of_node

    return rows_of_node(context, settings)


app = client_app(load)
