"""Which of several candidate adapters a client takes: the one with the lowest loss on its train rows."""

from fedlease.client.resident import ResidentModel
from fedlease.core.types import ClientModel, Tensors
from fedlease.tasks.encoded import Encoded

__all__ = ["choose"]


def choose(
    resident: ResidentModel, model: ClientModel, tensors: Tensors, num_labels: int, rows: Encoded, threads: int
) -> int:
    """Index of the best candidate; the smaller on a tie.

    Args:
        resident: is left with the last candidate loaded.
        model: with candidates.
        tensors: the model's, private ones laid over; a candidate replaces those of its names.
        num_labels: of the client.
        rows: its train rows.
        threads: CPU threads.
    """
    losses = []
    for candidate in model.candidates:
        resident.load(model, num_labels, {**tensors, **candidate})
        losses.append(resident.task.mean_loss(resident, rows, threads))
    return min(range(len(losses)), key=losses.__getitem__)
