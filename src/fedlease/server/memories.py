"""Memory of filters between the steps of one method: the server's, and that of clients in this process."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedlease.core.types import ClientId, Tensors
from fedlease.privacy.memory import Memory

__all__ = ["Memories"]


@dataclass
class Memories:
    """Memory of filters about all clients.

    Attributes:
        received: client -> what it has received, as the server knows it.
        clients: client in this process -> its own memory, but for what it has received, which is the server's: nothing
            is held twice.
    """

    received: dict[ClientId, Tensors] = field(default_factory=dict)
    clients: dict[ClientId, Memory] = field(default_factory=dict)

    def of(self, client: ClientId) -> Memory:
        """The memory of a client in this process."""
        return replace(self.clients.get(client, Memory()), received=self.received.get(client, {}))

    def keep(self, client: ClientId, memory: Memory) -> None:
        """Remembers what a client in this process does."""
        self.clients[client] = replace(memory, received={})

    def residuals(self, accepted: Mapping[ClientId, int]) -> dict[ClientId, Mapping[str, Tensors]]:
        """Client in this process -> its residuals, once it knows its last update that was used."""
        told = {client: memory.accepted(accepted.get(client)) for client, memory in sorted(self.clients.items())}
        return {client: memory.residual for client, memory in told.items() if memory.residual}

    def restore(
        self, received: Mapping[ClientId, Tensors], residuals: Mapping[ClientId, Mapping[str, Tensors]]
    ) -> None:
        """Goes on from a checkpoint."""
        self.received = dict(received)
        self.clients = {client: Memory(residual=residual) for client, residual in residuals.items()}
