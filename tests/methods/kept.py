"""What of a model comes down to a client: counted as it travels, and compared with what the client makes of it."""

from collections.abc import Iterator, Mapping

import torch
from contract.planted import adapter

from fedlease.client.messages import Reply, Request, Train, Trained
from fedlease.core.types import ClientId, ClientTask, ClientUpdate
from fedlease.data.federation import ClientCard
from fedlease.server.filters import Filtered, make_filters, received_here
from fedlease.server.memories import Memories
from fedlease.server.transport import Traffic

MARK = 19
"""Bytes of the note that a matrix is as it was: form, bits and dimensions, 8 of a hash, and two sizes of 4."""


class Down:
    """A server with the filters that every run has, and clients that learn nothing."""

    def __init__(self) -> None:
        self.traffic, self.filters, self.memories = Traffic(), make_filters([], adapter().tensors), Memories()

    def clients(self) -> Mapping[ClientId, ClientCard]:
        return {}

    def send(self, requests: Mapping[ClientId, Request]) -> Iterator[tuple[ClientId, Reply]]:
        for client, request in requests.items():
            assert isinstance(request, Train)
            self.traffic.request(request)
            self.read = received_here(client, request, self.filters, self.memories).model
            update = ClientUpdate(client, request.task.phase, request.task.round, 1, {})
            yield client, Trained(update, None, 0, 0.0, 0.0)

    def bytes(self, client: ClientId, task: ClientTask, step: int) -> float:
        """Sends a task to a client, which reads the task's model."""
        list(Filtered(self, self.filters, self.memories).send({client: Train("m", step, task)}))
        assert self.read.tensors.keys() == task.model.tensors.keys()
        assert all(torch.equal(self.read.tensors[name], tensor) for name, tensor in task.model.tensors.items())
        return self.traffic.take()["bytes_down"]
