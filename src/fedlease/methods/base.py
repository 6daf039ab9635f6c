"""The contract of a federated method, and what several methods say in the same words."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from fedlease.core.types import Budget, ClientId, ClientModel, ClientTask, ClientUpdate, TensorName

__all__ = ["WARMUP", "WARMUP_TRIES", "Method", "State", "ab_names", "by_client", "rounds_for_warmup", "waits"]

WARMUP = "warmup"
"""The phase in which the engine asks every client once; in all other phases it samples."""

WARMUP_TRIES = 2
"""A client whose warm-up is refused this often is treated as one that joins later."""


class State(Protocol):
    """A frozen, serialisable dataclass; what else it holds is the method's business."""

    @property
    def round(self) -> int:
        """0 during the warm-up, then the round that comes next."""


class Method(Protocol):
    """A frozen dataclass of parameters plus pure functions over a frozen state: no I/O, no mutated arguments."""

    @property
    def budget(self) -> Budget:
        """How much may be trained."""

    @property
    def last_round(self) -> int:
        """Number of the last round; after it every task is None."""

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> Any:
        """The state before anything is trained.

        Args:
            adapter: the one adapter that all start from.
            clients: client -> n_i, its train rows.
            seed: root seed of the run.
        """

    def task(self, state: Any, client: ClientId) -> ClientTask | None:
        """What to ask of a client now; None when there is nothing for it this round."""

    def aggregate(self, state: Any, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()) -> Any:
        """The next state. Without updates the tensors stay and the round advances.

        Args:
            state: as it was when the tasks were given.
            updates: checked; in any order.
            absent: clients that were asked and whose update did not come or was refused.
        """

    def model(self, state: Any, client: ClientId) -> ClientModel:
        """What the client is evaluated with; private tensors are laid over it by the engine."""

    def admit(self, state: Any, client: ClientId, num_examples: int) -> Any:
        """The state with one more client."""

    def group(self, state: Any, client: ClientId) -> int:
        """Clients with the same number average their heads when heads are shared."""


def ab_names(model: ClientModel, expert: int = 0) -> frozenset[str]:
    """Names of the A and B of one expert in a model."""
    return frozenset(name for name in model.tensors if TensorName.parse(name).expert == expert)


def by_client(updates: Sequence[ClientUpdate]) -> list[ClientUpdate]:
    """Sorted by client, so that arrival order changes no bit."""
    return sorted(updates, key=lambda update: update.client)


def rounds_for_warmup(method: Method) -> int:
    """Rounds that a method without a warm-up has in its place, see ``Budget``; 0 for one that has it."""
    return max(0, method.last_round - method.budget.rounds)


def waits(client: ClientId, done: Collection[ClientId], tries: Mapping[ClientId, int]) -> bool:
    """Whether a client's warm-up is still to come."""
    return client not in done and tries.get(client, 0) < WARMUP_TRIES
