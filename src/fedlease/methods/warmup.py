"""The warm-up that four methods share: every client trains the common adapter alone, and is asked once."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedlease.core.codec import serialisable
from fedlease.core.types import Budget, ClientId, ClientModel, ClientTask, ClientUpdate, Stage, Tensors

__all__ = ["WARMUP", "WARMUP_TRIES", "Warmup", "warmup_stages"]

WARMUP = "warmup"
"""The phase in which the server asks every client once; in all other phases it samples."""

WARMUP_TRIES = 2
"""A client whose warm-up is refused this often is treated as one that joins late."""


@serialisable
@dataclass(frozen=True)
class Warmup:
    """Who has answered in the warm-up so far.

    Attributes:
        results: client -> what it uploaded; emptied by :meth:`used`.
        refusals: client -> how often its warm-up was refused.
    """

    results: Mapping[ClientId, Tensors] = field(default_factory=dict)
    refusals: Mapping[ClientId, int] = field(default_factory=dict)

    def pending(self, clients: Iterable[ClientId]) -> list[ClientId]:
        """The clients whose warm-up is still to come."""
        return [c for c in clients if c not in self.results and self.refusals.get(c, 0) < WARMUP_TRIES]

    def collect(self, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = ()) -> "Warmup":
        """The bookkeeping after one more step.

        Args:
            updates: those of this step; those of other phases are passed over.
            absent: clients that were asked and whose update did not come or was refused.
        """
        answers = {update.client: update.tensors for update in updates if update.phase == WARMUP}
        refusals = {client: self.refusals.get(client, 0) + 1 for client in absent}
        return Warmup({**self.results, **answers}, {**self.refusals, **refusals})

    def task(
        self, client: ClientId, adapter: ClientModel, budget: Budget, round_: int, *, upload: bool = True
    ) -> ClientTask | None:
        """Trains A and B of the common adapter for E epochs; None in round 0 for a client that is not pending.

        Args:
            client: one without a warm-up; one that joins late is asked in later rounds.
            adapter: the common one.
            budget: holds E.
            round_: the state's.
            upload: whether A and B are given back, or stay private.
        """
        if round_ == 0 and not self.pending([client]):
            return None
        names = adapter.names("AB")
        stages = warmup_stages(names, budget.warmup_epochs, budget)
        return ClientTask(WARMUP, round_, adapter, stages, upload=names if upload else frozenset())

    def used(self) -> "Warmup":
        """The same bookkeeping without tensors, once nothing needs them any more."""
        return replace(self, results={client: {} for client in self.results})


def warmup_stages(names: frozenset[str], epochs: int, budget: Budget) -> tuple[Stage, ...]:
    """One stage of all epochs, or stages as long as rounds, the last with the remaining epochs."""
    step = budget.local_epochs if budget.warmup_as_rounds else max(1, epochs)
    return tuple(Stage(names, min(step, epochs - done)) for done in range(0, max(1, epochs), step))
