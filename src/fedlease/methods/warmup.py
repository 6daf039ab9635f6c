"""The warm-up that several methods share: every client trains the common adapter once, alone."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedlease.core.codec import serialisable
from fedlease.core.types import Budget, ClientId, ClientModel, ClientTask, ClientUpdate, Stage, Tensors

__all__ = ["WARMUP", "WARMUP_TRIES", "Warmup", "warmup_stages"]

WARMUP = "warmup"
"""The phase in which the server asks every client once; in all other phases it samples."""

WARMUP_TRIES = 2
"""Number of refused warm-ups after which a client counts as one that joins late."""


@serialisable
@dataclass(frozen=True)
class Warmup:
    """The answers in the warm-up so far.

    Attributes:
        results: client -> its upload; emptied by :meth:`used`.
        refusals: client -> number of its warm-ups that were refused or did not arrive.
    """

    results: Mapping[ClientId, Tensors] = field(default_factory=dict)
    refusals: Mapping[ClientId, int] = field(default_factory=dict)

    def pending(self, clients: Iterable[ClientId]) -> list[ClientId]:
        """The clients that have not answered and may still be asked."""
        return [c for c in clients if c not in self.results and self.refusals.get(c, 0) < WARMUP_TRIES]

    def collect(self, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = ()) -> "Warmup":
        """The answers after one more step.

        Args:
            updates: of this step; those of other phases are ignored.
            absent: clients whose update was requested but did not arrive or was refused.
        """
        answers = {update.client: update.tensors for update in updates if update.phase == WARMUP}
        refusals = {client: self.refusals.get(client, 0) + 1 for client in absent}
        return Warmup({**self.results, **answers}, {**self.refusals, **refusals})

    def task(
        self, client: ClientId, adapter: ClientModel, budget: Budget, round_: int, *, upload: bool = True
    ) -> ClientTask | None:
        """A task that trains A and B for E epochs; None in round 0 for a client that is not pending.

        Args:
            client: a client without a warm-up; late clients are asked in later rounds.
            adapter: the adapter that all clients start from.
            budget: gives E.
            round_: of the state.
            upload: whether A and B are uploaded, or stay private.
        """
        if round_ == 0 and not self.pending([client]):
            return None
        names = adapter.names("AB")
        stages = warmup_stages(names, budget.warmup_epochs, budget)
        return ClientTask(WARMUP, round_, adapter, stages, upload=names if upload else frozenset())

    def used(self) -> "Warmup":
        """The same answers without their tensors, to free memory."""
        return replace(self, results={client: {} for client in self.results})


def warmup_stages(names: frozenset[str], epochs: int, budget: Budget) -> tuple[Stage, ...]:
    """One stage of all epochs or, with ``warmup_as_rounds``, stages of as many epochs as a round has."""
    step = budget.local_epochs if budget.warmup_as_rounds else max(1, epochs)
    return tuple(Stage(names, min(step, epochs - done)) for done in range(0, max(1, epochs), step))
