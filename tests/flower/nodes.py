"""Federations over the grid in memory."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Message
from small import scores_of

from fedlease.config.settings import Settings
from fedlease.data.load import load_federation
from fedlease.flower.clientapp import client_app
from fedlease.flower.memory_grid import MemoryGrid
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.flower.wire import RECORD, TREE
from fedlease.server.events import Listener, StepFinished

Summaries = dict[str, dict[str, Any]]


class Stopped(Exception):
    """The server ends here, as if it had been killed."""


def stop_after(round_: int) -> Listener:
    """A listener that ends the server once a round is complete and on disk."""

    def stop(event: object) -> None:
        if isinstance(event, StepFinished) and event.record["round"] == round_:
            raise Stopped

    return stop


def comparable(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without the clock and without what went down, which is less over a grid."""
    return {key: value for key, value in scores_of(summary).items() if key not in ("bytes_down", "head_bytes_down")}


def kind_of(message: Message) -> str:
    """The type of a message; of a task with its phase, as in ``train.experts``."""
    kind = message.metadata.message_type
    if kind != "train.task":
        return kind
    fields = json.loads(str(message.content.config_records[RECORD][TREE]))["value"]["fields"]
    return f"train.{fields['request']['fields']['task']['fields']['phase']}"


def grid_of(settings: Settings, *, one_machine: bool = False, **config: Any) -> MemoryGrid:
    """One node per client, with ids that are not the clients' order."""
    count = len(load_federation(settings.data, settings.seed, settings.task))
    nodes = {900 - i: {"partition-id": i, "num-partitions": count, **config} for i in range(count)}
    return MemoryGrid(client_app(one_machine=one_machine), nodes)


def over_memory(
    settings: Settings,
    out: Path,
    listeners: Sequence[Listener] = (),
    prepare: Callable[[MemoryGrid], None] | None = None,
    *,
    hand_over: bool = True,
    **config: Any,
) -> tuple[Summaries, MemoryGrid]:
    """Runs a federation; ``config`` goes to every node."""
    grid = grid_of(settings, one_machine=hand_over, **config)
    if prepare is not None:
        prepare(grid)
    strategy = FedLeaseStrategy(settings, out, listeners, hand_over=hand_over)
    strategy.start(grid)
    return strategy.summaries, grid
