"""The grouping of FedLEASE+: who has one task, by similarities that are corrected for how little was learnt; ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from fedlease.core.adapters import b_matrices
from fedlease.core.allocate import assign
from fedlease.core.choices import Signal
from fedlease.core.merging import merge
from fedlease.core.reliability import similarities
from fedlease.core.types import Allocation, ClientId, Tensors
from fedlease.core.wording import counted
from fedlease.methods.fedlease_groupings import Grouping

__all__ = ["FEW_ROWS", "BySimilarity"]

FEW_ROWS = 16
"""A client with fewer train rows is not divided: halves of seven rows say nothing."""


@dataclass(frozen=True)
class BySimilarity(Grouping):
    """Groups clients that have learnt their task by corrected similarity; each of the others stands alone.

    Attributes:
        halves: client -> A and B of its halves, numbered as experts 0 and 1.
        signal: what is compared.
        cut: see :func:`fedlease.core.merging.compare`.
    """

    halves: Mapping[ClientId, Tensors] = field(default_factory=dict)
    signal: Signal = "BA"
    cut: float = 0.3

    def __call__(self, uploads: Mapping[ClientId, Tensors], seed: int, **rule: Any) -> Allocation:
        """Groups the clients; where nobody has learnt, nothing tells them apart, and one expert is trained by all."""
        b = {client: b_matrices(tensors) for client, tensors in uploads.items()}
        halves = {client: tensors for client, tensors in self.halves.items() if client in uploads}
        if not halves:
            note = "no client has enough rows for halves: nothing tells the clients apart, one expert is trained by all"
            return replace(assign(b, dict.fromkeys(b, 0)), warnings=(note,), unsure=tuple(sorted(b)))
        found = similarities(halves, self.signal)
        groups = merge(found, self.cut)
        unsure = sorted(b.keys() - groups.keys())
        labels = {**groups, **{client: -1 - place for place, client in enumerate(unsure)}} if groups else {}
        allocation = assign(b, labels or dict.fromkeys(b, 0))
        reliability = dict(zip(found.clients, found.reliability.tolist(), strict=True))
        errors = dict(zip(found.clients, found.reliability_error.tolist(), strict=True))
        notes = [_unsure_note(client, reliability.get(client), errors.get(client)) for client in unsure if groups]
        if not groups:
            notes = [
                "no client has learnt its task yet: nothing tells the clients apart, and one expert is trained by all; "
                "a longer warm-up (warmup.epochs) or more rows would tell"
            ]
        return replace(
            allocation,
            warnings=(*notes, *allocation.warnings),
            reliability=reliability,
            corrected=_over(found.corrected, found.clients, allocation.clients),
            corrected_error=_over(found.error, found.clients, allocation.clients),
            unsure=tuple(unsure),
        )


def _unsure_note(client: ClientId, reliability: float | None, error: float | None) -> str:
    if reliability is None or error is None:
        few = counted(FEW_ROWS, "row")
        return f"client {client!r} has fewer than {few}, too few for halves: what it is like is unknown"
    known = f"reliability {reliability:.2f} ± {error:.2f}"
    return f"client {client!r} has not learnt its task yet ({known}): what it is like is unknown"


def _over(values: Tensor, some: Sequence[ClientId], everyone: Sequence[ClientId]) -> Tensor:
    """Values of some clients as a matrix over all, NaN for the others."""
    places = [list(everyone).index(client) for client in some]
    matrix = values.new_full((len(everyone), len(everyone)), float("nan"))
    for row, place in enumerate(places):
        matrix[place, places] = values[row]
    return matrix
