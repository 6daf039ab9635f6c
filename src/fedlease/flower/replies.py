"""What comes back from nodes, as far as it is the same for every question: whose it is, and what is in it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Message
from flwr.common.constant import ErrorCode

from fedlease.core.types import ClientId
from fedlease.errors import RunFailedError, UpdateRefusedError
from fedlease.flower.bounds import shown
from fedlease.flower.wire import MAX_TREE, RecordError, unpack

__all__ = ["ESCAPED", "SPARE", "SPARE_TREE", "Size", "check_worker", "is_gone", "last_line", "of_asked", "read"]

SPARE = 2**20
"""Bytes that a reply may have beyond the arrays expected in it."""

SPARE_TREE = 2**16
"""Characters of JSON that a reply may have beyond what is expected."""

ESCAPED = 12
"""Characters that one character of a text takes in JSON at most."""

WORKER_DIED = re.compile(r"<class 'ray\.exceptions\.(?!RayTaskError)")
"""How Flower words the end of a worker process of a simulation."""


@dataclass(frozen=True)
class Size:
    """How large an answer may be.

    Attributes:
        arrays: bytes of arrays.
        tree: characters of JSON.
    """

    arrays: int = 0
    tree: int = 0


def check_worker(reply: Message) -> None:
    """Of a simulation: a process that ends takes the answers of clients with it that have refused nothing.

    Raises:
        RunFailedError: a worker process died for good.
    """
    if reply.has_error() and WORKER_DIED.match(reply.error.reason or ""):
        raise RunFailedError(
            "a worker process of the simulation died, again and again where it was replaced; was there enough memory "
            "for so many? Go on from the last complete step with: fedlease resume DIR --engine flower"
        )


def of_asked(replies: Iterable[Message], asked: Mapping[str, int]) -> Iterator[tuple[int, Message]]:
    """Node and reply, for replies to messages that were sent; the SuperLink's word that there will be none counts."""
    for reply in replies:
        node = asked.get(reply.metadata.reply_to_message_id)
        if node is not None and (reply.metadata.src_node_id == node or reply.has_error()):
            yield node, reply


def is_gone(reply: Message) -> bool:
    """Whether the SuperLink says that the node stopped reporting."""
    return bool(reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE)


def read(client: ClientId, reply: Message, size: Size) -> Any:
    """What a client answered, or why there is nothing to be read."""
    if is_gone(reply):
        return UpdateRefusedError(client, "was lost while it was asked: its SuperNode stopped reporting")
    if reply.has_error():
        return UpdateRefusedError(client, f"its app failed: {last_line(reply.error.reason)}")
    try:
        return unpack(reply.content, size.arrays + SPARE, max_tree=min(MAX_TREE, size.tree + SPARE_TREE))[0]
    except RecordError as error:
        return UpdateRefusedError(client, shown(str(error)))
    except Exception as error:  # one node's bytes must not end the run, whatever is wrong with them
        return UpdateRefusedError(client, shown(f"its answer cannot be read: {type(error).__name__} {error}"))


def last_line(reason: str | None) -> str:
    """The last line of an error, where a traceback says what is wrong."""
    lines = (reason or "").strip().splitlines()
    return shown(lines[-1]) if lines else "no reason given"
