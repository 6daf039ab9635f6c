"""Memories of filters between the steps of one method: the server's, and those of clients in this process."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedlease.core.types import ClientId, Tensors
from fedlease.privacy.memory import Memory

__all__ = ["Memories"]


@dataclass
class Memories:
    """Memories of filters for all clients.

    Attributes:
        received: client -> the tensors that it has received.
        clients: client in this process -> its own memory, without ``received``, which is not stored twice.
    """

    received: dict[ClientId, Tensors] = field(default_factory=dict)
    clients: dict[ClientId, Memory] = field(default_factory=dict)

    def of(self, client: ClientId) -> Memory:
        """The memory of a client in this process."""
        return replace(self.clients.get(client, Memory()), received=self.received.get(client, {}))

    def keep(self, client: ClientId, memory: Memory) -> None:
        """Stores the memory of a client in this process."""
        self.clients[client] = replace(memory, received={})

    def residuals(self, accepted: Mapping[ClientId, int]) -> dict[ClientId, Mapping[str, Tensors]]:
        """Client in this process -> its residuals, given the last step whose update was used."""
        told = {client: memory.accepted(accepted.get(client)) for client, memory in sorted(self.clients.items())}
        return {client: memory.residual for client, memory in told.items() if memory.residual}

    def restore(
        self, received: Mapping[ClientId, Tensors], residuals: Mapping[ClientId, Mapping[str, Tensors]]
    ) -> None:
        """Restores the memories from a checkpoint."""
        self.received = dict(received)
        self.clients = {client: Memory(residual=residual) for client, residual in residuals.items()}
