"""Federations over the grid in memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedlease.config import Settings
from fedlease.data import load_federation
from fedlease.engines.events import Listener
from fedlease.engines.flower.client_app import client_app
from fedlease.engines.flower.memory_grid import MemoryGrid
from fedlease.engines.flower.strategy import FedLeaseStrategy

Summaries = dict[str, dict[str, Any]]


def grid_of(settings: Settings, **config: Any) -> MemoryGrid:
    """One node per client, with ids that are not the clients' order."""
    count = len(load_federation(settings.data, settings.seed, settings.task))
    nodes = {900 - i: {"partition-id": i, "num-partitions": count, **config} for i in range(count)}
    return MemoryGrid(client_app(), nodes)


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
    grid = grid_of(settings, **config)
    if prepare is not None:
        prepare(grid)
    strategy = FedLeaseStrategy(settings, out, listeners, hand_over=hand_over)
    strategy.start(grid)
    return strategy.summaries, grid
