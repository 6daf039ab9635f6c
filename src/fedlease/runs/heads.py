"""The heads that clients start from, for whoever knows labels and no rows: a server, and the reader of a run folder."""

from collections.abc import Mapping
from typing import Protocol

from fedlease.core.types import ClientId
from fedlease.methods.head import Head
from fedlease.runs.open import Loaded

__all__ = ["Heads"]


class Labelled(Protocol):
    """Whatever is known of a client, its labels with it."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Its own label list."""
        ...


class Heads(dict[ClientId, Head]):
    """Client -> initial head, drawn on first use, so that late clients have one too.

    Args:
        loaded: the base model.
        clients: those with a head, also such as are added later.
    """

    def __init__(self, loaded: Loaded, clients: Mapping[ClientId, Labelled]) -> None:
        super().__init__()
        self._loaded, self._clients = loaded, clients

    def __missing__(self, client: ClientId) -> Head:
        self[client] = self._loaded.head(self._clients[client].labels)
        return self[client]
