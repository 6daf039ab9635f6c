"""Initial heads of clients whose labels are known but not their rows: for a server, or from a run folder."""

from collections.abc import Mapping
from typing import Protocol

from fedlease.core.types import ClientId
from fedlease.methods.head import Head
from fedlease.runs.open import Loaded

__all__ = ["Heads"]


class Labelled(Protocol):
    """Information about a client that includes its labels."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The client's labels."""
        ...


class Heads(dict[ClientId, Head]):
    """Client -> initial head, made on first use, so that late clients have one too.

    Args:
        loaded: the base model.
        clients: client -> its labels; clients may be added later.
    """

    def __init__(self, loaded: Loaded, clients: Mapping[ClientId, Labelled]) -> None:
        super().__init__()
        self._loaded, self._clients = loaded, clients

    def __missing__(self, client: ClientId) -> Head:
        self[client] = self._loaded.head(self._clients[client].labels)
        return self[client]
