"""Faults of nodes, and runs that have them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flower.nodes import kind_of, over_memory
from flwr.app import Message
from small import rounds_of, small_settings

from fedlease.client.messages import Trained
from fedlease.config.settings import Settings
from fedlease.flower.memory_grid import MemoryGrid
from fedlease.flower.wire import pack, unpack

BAD, CLIENT = 900, "planted-0-0"
"""The node of the faults, and its client; node ids count down from 900, clients up."""

What = Callable[[Message, Message], Message | None]
Change = Callable[[Trained], Trained]


def few(**changes: Any) -> Settings:
    """Four clients."""
    return small_settings(baselines=[], **{"data__clients_per_task": 1, **changes})


def of_round(message: Message, number: int) -> bool:
    return kind_of(message) == ("train.warmup" if number == 0 else "train.experts")


def nth(wanted: int, number: int, what: What, node: int = BAD) -> What:
    """A fault of one node in its ``wanted``-th train message of the warm-up (0) or the rounds (1)."""
    seen = 0

    def fault(message: Message, reply: Message) -> Message | None:
        nonlocal seen
        if reply.metadata.src_node_id != node or not of_round(message, number):
            return reply
        seen += 1
        return what(message, reply) if seen == wanted else reply

    return fault


def changed(change: Change) -> Callable[[Message, Message], Message]:
    """The reply with another update in it."""

    def what(message: Message, reply: Message) -> Message:
        answer = unpack(reply.content, 2**30)[0]
        return Message(pack(change(answer)).record, reply_to=message)

    return what


def run(tmp_path: Path, *faults: Any, **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The summary and the records of a run of :func:`few` in which these happen."""

    def spoil(grid: MemoryGrid) -> None:
        grid.faults += faults

    summaries, _ = over_memory(few(**changes), tmp_path / "r", prepare=spoil, hand_over=False)
    return summaries["fedlease"], rounds_of(tmp_path / "r")


def state_at(out: Path) -> Any:
    """What the manifest says of the state."""
    return json.loads((out / "state/manifest.json").read_text())["state"]
