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
    """The fields that every method's state has. A state is a frozen, serialisable dataclass and may have more."""

    @property
    def round(self) -> int:
        """0 during the warm-up, then the number of the next round."""

    @property
    def adapter(self) -> ClientModel:
        """The model from which clients start."""

    @property
    def clients(self) -> Mapping[ClientId, int]:
        """Client -> n_i, its number of train rows."""

    @property
    def warmup(self) -> Warmup:
        """The answers in the warm-up; empty for a method without one."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the method's decisions, for the summary."""

    @property
    def allocation(self) -> Allocation | None:
        """The grouping of the clients; None before it is made, and for a method without groups."""

    @property
    def centroids(self) -> Centroids | GroupDirections | None:
        """Means of warm-ups by which a client that comes after the allocation is placed."""

    @property
    def assignment(self) -> Mapping[ClientId, int]:
        """Client -> expert, by the allocation or by a later placement."""

    @property
    def planned(self) -> Mapping[ClientId, int]:
        """Client -> its future group, if that is known before the warm-up."""

    @property
    def experts(self) -> tuple[Tensors, ...]:
        """The A and B of every expert, each numbered as expert 0; () if the method has no experts."""


@serialisable
@dataclass(frozen=True, kw_only=True)
class CommonState:
    """A state with the fields of :class:`State`; methods that need more fields extend it."""

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
    """A frozen dataclass of parameters with pure functions over a frozen state: no I/O, no mutated arguments."""

    @property
    def budget(self) -> Budget:
        """The amount of training."""

    @property
    def last_round(self) -> int:
        """Number of the last round; after it, every task is None."""

    @property
    def averaged(self) -> tuple[str, ...]:
        """Fields of the state that hold means, which a server may step towards; () if there are none."""

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> Any:
        """The state before any training.

        Args:
            adapter: the adapter that all clients start from.
            clients: client -> n_i, its number of train rows.
            seed: root seed of the run.
        """

    def task(self, state: Any, client: ClientId) -> ClientTask | None:
        """The client's next task; None if it has none in this round."""

    def aggregate(self, state: Any, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()) -> Any:
        """The next state. Without updates, the round advances and the tensors do not change.

        Args:
            state: the state from which the tasks were made.
            updates: checked updates, in any order.
            absent: clients whose update was requested but did not arrive or was refused.
        """

    def model(self, state: Any, client: ClientId) -> ClientModel:
        """The model with which a client is scored; the client replaces tensors by its private ones."""

    def admit(self, state: Any, client: ClientId, num_examples: int) -> Any:
        """The state with one more client."""

    def group(self, state: Any, client: ClientId) -> int:
        """The number of the client's group; with shared heads, a group averages its heads."""


S = TypeVar("S", bound=CommonState)


@dataclass(frozen=True)
class CommonMethod:
    """The functions of :class:`Method` that are the same for most methods.

    Attributes:
        warms_up: whether the method has a warm-up; opening rounds take its place otherwise.
        budget: E, R and local epochs.
    """

    warms_up: ClassVar[bool] = True

    budget: Budget

    @property
    def last_round(self) -> int:
        """R, plus the opening rounds of a method without a warm-up."""
        return self.budget.rounds + (0 if self.warms_up else self.budget.opening_rounds)

    def admit(self, state: S, client: ClientId, num_examples: int) -> S:
        """Adds a late client, which gets its first task when it is next asked."""
        return replace(state, clients={**state.clients, client: num_examples})


@dataclass(frozen=True)
class Terms:
    """The settings that compared methods share; each method uses those that apply to it.

    Attributes:
        budget: E, R and local epochs.
        weights: weights of clients in a mean.
        linkage: distance between two clusters.
        max_experts: M_max.
        min_silhouette: threshold of the silhouette S(k); M = 1 if no S(k) is above it.
        columns: number of leading columns of every B by which late clients are placed, the smallest rank if ranks
            differ; None: all.
        ranks: ranks of the clients; None: all have the rank of the initial adapter. Only methods in
            :data:`fedlease.methods.registry.OWN_RANKS` use them; :class:`fedlease.methods.ranks.WithRanks` wraps the
            others.
        private: whether noise covers every row: it was computed beforehand, for the same passes of all clients.
        least: fewest clients of an allocated group; smaller groups join the nearest one.
        sketch: numbers that a client sends instead of its warm-up; None: it sends the warm-up.
    """

    budget: Budget
    weights: Weighting = "num_examples"
    linkage: Linkage = "average"
    max_experts: int = 8
    min_silhouette: float = 0.05
    columns: int | None = None
    ranks: Ranks | None = None
    private: bool = False
    least: int = 1
    sketch: int | None = None


Builder = Callable[..., Method]
"""Function of the terms and, as keywords, the settings of the method's own section, which returns the method.

:data:`fedlease.methods.registry.METHODS` and the entry points of other packages refer to such functions. A setting that
the method does not have is a ``TypeError``."""


def by_client(updates: Sequence[ClientUpdate]) -> list[ClientUpdate]:
    """The updates sorted by client, so that their order of arrival does not change any result."""
    return sorted(updates, key=lambda update: update.client)


def rounds_for_warmup(method: Method) -> int:
    """Rounds that replace the warm-up of a method without one, see ``Budget``; 0 for a method with a warm-up."""
    return max(0, method.last_round - method.budget.rounds)
