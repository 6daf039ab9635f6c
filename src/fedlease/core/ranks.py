"""The ranks of clients whose adapters may differ in size."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedlease.core.names import ClientId

__all__ = ["Ranks"]


@dataclass(frozen=True)
class Ranks:
    """Ranks of the clients' adapters.

    Attributes:
        default: rank of every client that is not named, at least 1.
        named: client -> rank.
    """

    default: int
    named: Mapping[ClientId, int] = field(default_factory=dict)

    def of(self, client: ClientId) -> int:
        """A client's rank."""
        return self.named.get(client, self.default)
