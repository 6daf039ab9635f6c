"""Rows of several clients in common batches."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul
from typing import Any

import torch

from fedlease.tasks.base import StackedClients, StackingTask
from fedlease.tasks.encoded import Encoded, evaluation_batches

__all__ = ["filled", "mean_losses", "of_rows"]

Batches = Sequence[Sequence[int]]

EVALUATION_BATCH = 16
"""Number of rows of a client in a batch."""


def filled(batches: Batches, begins: Sequence[int]) -> tuple[list[int], int]:
    """Joins a batch of each client into one with the same number of rows of each, for common matrix products.

    Args:
        batches: rows of every client, at least one each.
        begins: index of every client's first row among the rows of all clients.

    Returns:
        The rows, one client after another, filled up with a client's first row; and the number of rows of each.
    """
    most = max(map(len, batches))
    rows = [
        begin + row
        for begin, batch in zip(begins, batches, strict=True)
        for row in [*batch, *[batch[0]] * (most - len(batch))]
    ]
    return rows, most


@torch.inference_mode()
def of_rows(
    model: StackedClients,
    clients: Sequence[Encoded],
    batches: Callable[[Encoded], Batches],
    compute: Callable[[Encoded, Sequence[int]], Sequence[Any]],
) -> list[list[Any]]:
    """Computes a value for every row of several clients.

    Args:
        model: of these clients.
        clients: their rows; the client with the most rows comes first.
        batches: divides a client's rows; more rows must not give fewer batches.
        compute: returns a value for each of the given rows of all clients.

    Returns:
        The values, by client and row.
    """
    everyone = clients[0].followed_by(clients[1:])
    begins = list(accumulate(map(len, clients), initial=0))
    by_client = [batches(rows) for rows in clients]
    found: list[dict[int, Any]] = [{} for _ in clients]
    for step in range(len(by_client[0])):
        now = [own[step] for own in by_client if len(own) > step]
        model.narrow(len(now))
        indices, most = filled(now, begins[: len(now)])
        values = compute(everyone, indices)
        for number, batch in enumerate(now):
            found[number] |= zip(batch, values[number * most :], strict=False)
    return [[own[row] for row in range(len(rows))] for own, rows in zip(found, clients, strict=True)]


def mean_losses(task: StackingTask, model: StackedClients, clients: Sequence[Encoded], *, threads: int) -> list[float]:
    """Every client's :meth:`fedlease.tasks.base.Task.mean_loss`; the client with the most rows comes first."""
    torch.set_num_threads(threads)

    def losses(rows: Encoded, indices: Sequence[int]) -> list[float]:
        with model.weighing(rows.questions(indices, model.device)):
            return task.row_losses(model, rows, indices).tolist()

    found = of_rows(model, clients, lambda rows: evaluation_batches(rows.lengths, EVALUATION_BATCH), losses)
    shares = (task.row_shares(rows, range(len(rows))) for rows in clients)
    return [math.fsum(map(mul, own, each)) for own, each in zip(found, shares, strict=True)]
