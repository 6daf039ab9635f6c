"""The grouping of FedLEASE+: by similarities that are corrected for how much each client has learnt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlease.core.adapters import b_matrices
from fedlease.core.allocate import assign
from fedlease.core.choices import Signal
from fedlease.core.merging_many import group
from fedlease.core.types import Allocation, ClientId, Tensors
from fedlease.core.wording import counted
from fedlease.methods.fedlease_groupings import Grouping

__all__ = ["FEW_ROWS", "BySimilarity"]

FEW_ROWS = 16
"""Fewest train rows for a warm-up on halves: halves of seven rows say nothing."""


@dataclass(frozen=True)
class BySimilarity(Grouping):
    """Groups clients by the corrected similarity of their halves; a client that has not learnt its task stays alone.

    Attributes:
        halves: client -> A and B of its halves, numbered as experts 0 and 1.
        signal: the matrices that are compared.
        rested: whether A and heads kept their initial values in the warm-ups.
    """

    halves: Mapping[ClientId, Tensors] = field(default_factory=dict)
    signal: Signal = "BA"
    rested: bool = False

    def __call__(self, uploads: Mapping[ClientId, Tensors], seed: int, **rule: Any) -> Allocation:
        """Groups the clients; if no client has learnt its task, all train one expert."""
        b = {client: b_matrices(tensors) for client, tensors in uploads.items()}
        halves = {client: tensors for client, tensors in self.halves.items() if client in uploads}
        if not halves:
            note = "no client has enough rows for halves, so nothing tells the clients apart: all train one expert"
            return replace(assign(b, dict.fromkeys(b, 0)), warnings=(note,), unsure=tuple(sorted(b)))
        found = group(halves, self.signal, rested=self.rested)
        known = sorted(halves)
        unsure = sorted({*found.unsure, *(b.keys() - halves.keys())})
        nobody = len(unsure) == len(b) > 1
        alone = {client: -1 - place for place, client in enumerate(sorted(b.keys() - halves.keys()))}
        allocation = assign(b, dict.fromkeys(b, 0) if nobody else {**found.groups, **alone})
        reliability = dict(zip(known, found.reliability.tolist(), strict=True))
        notes = [_unsure_note(client, reliability.get(client)) for client in unsure]
        if nobody:
            notes = [
                "no client has learnt its task yet, so nothing tells the clients apart: all train one expert; a longer "
                "warm-up (warmup.epochs) or more rows would help"
            ]
        return replace(
            allocation,
            warnings=(*notes, *allocation.warnings),
            reliability=reliability,
            evidence=found.evidence,
            corrected=_over(found.corrected, known, allocation.clients),
            corrected_error=_over(found.error, known, allocation.clients),
            common=found.common,
            unsure=tuple(unsure),
        )


def _unsure_note(client: ClientId, reliability: float | None) -> str:
    if reliability is None:
        few = counted(FEW_ROWS, "row")
        return f"client {client!r} has fewer than {few}, too few for halves: its task is unknown"
    return (
        f"client {client!r} has not learnt enough to tell who has its task (reliability {reliability:.2f}): it stays "
        "alone"
    )


def _over(values: NDArray[np.float64] | None, some: Sequence[ClientId], everyone: Sequence[ClientId]) -> Tensor | None:
    """A matrix over some clients extended to all clients, with NaN for the others; None without values."""
    if values is None:
        return None
    place_of = {client: place for place, client in enumerate(everyone)}
    places = [place_of[client] for client in some]
    matrix = torch.full((len(everyone), len(everyone)), float("nan"), dtype=torch.float64)
    matrix[torch.tensor(places)[:, None], torch.tensor(places)] = torch.from_numpy(values)
    return matrix
