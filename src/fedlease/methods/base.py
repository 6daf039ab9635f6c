"""The contract of a federated method and of its state."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from fedlease.core.choices import Linkage, Weighting
from fedlease.core.codec import serialisable
from fedlease.core.directions import GroupDirections
from fedlease.core.placement import Centroids
from fedlease.core.ranks import Ranks
from fedlease.core.types import Allocation, Budget, ClientId, ClientModel, ClientTask, ClientUpdate, Tensors
from fedlease.methods.warmup import Warmup

__all__ = ["Builder", "CommonMethod", "CommonState", "Method", "State", "Terms", "by_client", "rounds_for_warmup"]


@runtime_checkable
class State(Protocol):
    """The public part of a method's state, which is a frozen, serialisable dataclass with further fields."""

    @property
    def round(self) -> int:
        """0 during the warm-up, then the number of the round that comes next."""

    @property
    def adapter(self) -> ClientModel:
        """The model from which a client starts."""

    @property
    def clients(self) -> Mapping[ClientId, int]:
        """Client -> n_i, its train rows."""

    @property
    def warmup(self) -> Warmup:
        """Who has answered in the warm-up; empty for a method without one."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Plain sentences about what the method decided, for the summary."""

    @property
    def allocation(self) -> Allocation | None:
        """The grouping of the clients; None before it, and for a method that groups nobody."""

    @property
    def centroids(self) -> Centroids | GroupDirections | None:
        """The means by which a client is placed that comes after the allocation."""

    @property
    def assignment(self) -> Mapping[ClientId, int]:
        """Client -> expert, of the allocation and of those placed since."""

    @property
    def planned(self) -> Mapping[ClientId, int]:
        """Client -> the group that it will be in, where that is known before the warm-up."""

    @property
    def experts(self) -> tuple[Tensors, ...]:
        """One A and B per expert of the allocation, numbered as expert 0; () where a method has no experts."""


@serialisable
@dataclass(frozen=True, kw_only=True)
class CommonState:
    """The fields of :class:`State`. A method that needs more extends it; FedIT needs nothing more."""

    round: int
    adapter: ClientModel
    clients: Mapping[ClientId, int]
    warmup: Warmup = field(default_factory=Warmup)
    notes: tuple[str, ...] = ()
    allocation: Allocation | None = None
    centroids: Centroids | GroupDirections | None = None
    assignment: Mapping[ClientId, int] = field(default_factory=dict)
    planned: Mapping[ClientId, int] = field(default_factory=dict)
    experts: tuple[Tensors, ...] = ()


class Method(Protocol):
    """A frozen dataclass of parameters plus pure functions over a frozen state: no I/O, no mutated arguments."""

    @property
    def budget(self) -> Budget:
        """How much may be trained."""

    @property
    def last_round(self) -> int:
        """Number of the last round; after it every task is None."""

    @property
    def averaged(self) -> tuple[str, ...]:
        """Fields of the state that hold means, which a server may step towards; () where there are none."""

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> Any:
        """The state before anything is trained.

        Args:
            adapter: the one adapter that all start from.
            clients: client -> n_i, its train rows.
            seed: root seed of the run.
        """

    def task(self, state: Any, client: ClientId) -> ClientTask | None:
        """The client's next task; None if there is none in this round."""

    def aggregate(self, state: Any, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()) -> Any:
        """The next state. Without updates the tensors stay and the round advances.

        Args:
            state: as it was when the tasks were given.
            updates: checked; in any order.
            absent: clients that were asked and whose update did not come or was refused.
        """

    def model(self, state: Any, client: ClientId) -> ClientModel:
        """The model with which a client is evaluated; the client lays its private tensors over it."""

    def admit(self, state: Any, client: ClientId, num_examples: int) -> Any:
        """The state with one more client."""

    def group(self, state: Any, client: ClientId) -> int:
        """Clients with the same number average their heads when heads are shared."""


S = TypeVar("S", bound=CommonState)


@dataclass(frozen=True)
class CommonMethod:
    """What most methods have alike of :class:`Method`; each states the rest, and what it does otherwise.

    Attributes:
        warms_up: whether there is a warm-up; without one the opening rounds take its place.
        budget: E, R and local epochs.
    """

    warms_up: ClassVar[bool] = True

    budget: Budget

    @property
    def last_round(self) -> int:
        """R, and the opening rounds of a method without a warm-up."""
        return self.budget.rounds + (0 if self.warms_up else self.budget.opening_rounds)

    def admit(self, state: S, client: ClientId, num_examples: int) -> S:
        """A late client has its first task when it is next asked."""
        return replace(state, clients={**state.clients, client: num_examples})


@dataclass(frozen=True)
class Terms:
    """The settings that compared methods share; each takes those that it knows.

    Attributes:
        budget: E, R and local epochs.
        weights: how clients are weighted in a mean.
        linkage: how far two clusters are apart.
        max_experts: M_max.
        min_silhouette: M = 1 when no S(k) is above it.
        columns: of every B, which late clients are placed by; the smallest rank where ranks differ, None: all.
        ranks: of clients, where they differ; None: all have that of the common start. Methods that are no row of
            :data:`fedlease.methods.registry.OWN_RANKS` leave them to :class:`fedlease.methods.ranks.WithRanks`.
        same_passes: whether a client's passes may not depend on its rows, as where noise is found beforehand.
        least: clients of a group that is allocated; smaller ones are joined with the nearest.
        sketch: numbers that a client sends of a warm-up in its place; None: the warm-up itself.
    """

    budget: Budget
    weights: Weighting = "num_examples"
    linkage: Linkage = "average"
    max_experts: int = 8
    min_silhouette: float = 0.05
    columns: int | None = None
    ranks: Ranks | None = None
    same_passes: bool = False
    least: int = 1
    sketch: int | None = None


Builder = Callable[..., Method]
"""The terms, and the settings of the method's own section as keywords -> the method. What
:data:`fedlease.methods.registry.METHODS` and the entry points of other packages name. A setting that the method does
not have is a ``TypeError``."""


def by_client(updates: Sequence[ClientUpdate]) -> list[ClientUpdate]:
    """The updates sorted by client, so that arrival order changes no bit."""
    return sorted(updates, key=lambda update: update.client)


def rounds_for_warmup(method: Method) -> int:
    """Rounds that a method without a warm-up has in its place, see ``Budget``; 0 for one that has it."""
    return max(0, method.last_round - method.budget.rounds)
