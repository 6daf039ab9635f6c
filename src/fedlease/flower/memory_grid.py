"""A Flower grid in this process, for tests and notebooks: messages are serialised and passed to the client app at once.

Flower sets the identity of a message's task only in its own processes, and its id only in the SuperLink; this module
sets both itself.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["MemoryGrid"]

Fault = Callable[[Message, Message], Message | None]
"""Takes a message and the reply to it, and returns the reply that arrives instead, or None for no reply."""


class MemoryGrid(Grid):
    """A grid whose nodes are contexts of one client app.

    Args:
        app: the clients' app.
        node_configs: node id -> its configuration.
    """

    def __init__(self, app: ClientApp, node_configs: Mapping[int, Mapping[str, Any]]) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self.app = app
        self.contexts: dict[int, Context] = {}
        self.log: list[tuple[str, int]] = []
        self.bytes = 0
        self.faults: list[Fault] = []
        self._ids = count(1)
        self._waiting: dict[str, Message] = {}
        for node, config in node_configs.items():
            self.join(node, config)

    def join(self, node: int, config: Mapping[str, Any]) -> None:
        """Adds a node, without memory."""
        self.contexts[node] = Context(
            run_id=1, node_id=node, node_config=dict(config), state=RecordDict(), run_config={}
        )

    def leave(self, node: int) -> None:
        """Removes a node with its memory."""
        del self.contexts[node]

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the nodes."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Delivers messages; replies wait to be pulled."""
        ids = []
        for message in messages:
            name = f"message-{next(self._ids)}"
            message.metadata.__dict__["_message_id"] = name
            ids.append(name)
            reply = self._deliver(message)
            if reply is not None:
                self._waiting[name] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have arrived."""
        return [self._waiting.pop(name) for name in message_ids if name in self._waiting]

    def arrive(self, reply: Message) -> None:
        """Lets a reply that a fault withheld arrive now."""
        self._waiting[reply.metadata.reply_to_message_id] = reply

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Delivers messages one after another and returns the replies that have arrived."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        self.log.append((message.metadata.message_type, node))
        if node not in self.contexts:
            return None
        received = self._on_the_wire(message)
        context = self.contexts[node]
        try:
            reply = self._on_the_wire(self.app(received, context))
        except Exception as error:  # whatever a client app raises reaches the server as an error message
            reply = Message(Error(0, f"{type(error).__name__}: {error}"), reply_to=received)
        # Flower also serialises a node's memory between messages.
        context.state = recorddict_from_proto(recorddict_to_proto(context.state))
        arrived: Message | None = reply
        for fault in self.faults:
            if arrived is None:
                return None
            arrived = fault(message, arrived)
        return arrived

    def _on_the_wire(self, message: Message) -> Message:
        blob = recorddict_to_proto(message.content).SerializeToString()
        self.bytes += len(blob)
        read = ProtoRecordDict()
        read.ParseFromString(blob)
        copied = copy.copy(message)
        copied.__dict__["_content"] = recorddict_from_proto(read)
        return copied

    def set_run(self, run: Any) -> None:
        """Does nothing, since there is only one run."""

    @property
    def run(self) -> Any:
        """None, since the only run has no record."""
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Raises NotImplementedError, since messages are made with their constructor."""
        raise NotImplementedError("make messages with flwr.app.Message(...)")

    def get_nodes(self) -> Iterable[Any]:
        """An empty list, since only the ids of nodes are known."""
        return []
