"""A method around another method: passes everything on, so that a variation states only what it changes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, ClassVar

from fedlease.core.types import Budget, ClientId, ClientModel, ClientTask, ClientUpdate
from fedlease.methods.base import Method, State

__all__ = ["Wrapper", "WrapperState", "innermost", "with_innermost"]


def _within(name: str) -> Any:
    """A property that reads a field of the state within."""
    return property(attrgetter(f"inner.{name}"))


@dataclass(frozen=True, kw_only=True)
class WrapperState:
    """The state of the method within, read through; a wrapper adds fields of its own.

    Attributes:
        inner: the state of the method within.
    """

    inner: State

    round = _within("round")
    adapter = _within("adapter")
    clients = _within("clients")
    warmup = _within("warmup")
    notes = _within("notes")
    allocation = _within("allocation")
    centroids = _within("centroids")
    assignment = _within("assignment")
    planned = _within("planned")
    experts = _within("experts")


@dataclass(frozen=True)
class Wrapper:
    """A method that does what the method within does.

    Attributes:
        STATE: what holds the state of the method within.
        method: the method within; it does not know that it is wrapped.
    """

    STATE: ClassVar[type[WrapperState]] = WrapperState

    method: Method

    @property
    def budget(self) -> Budget:
        """As the method within has it."""
        return self.method.budget

    @property
    def last_round(self) -> int:
        """As the method within has it."""
        return self.method.last_round

    @property
    def averaged(self) -> tuple[str, ...]:
        """Those of the method within."""
        return self.method.averaged

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> Any:
        """Wraps the first state of the method within."""
        return self.STATE(inner=self.method.init(adapter, clients, seed))

    def task(self, state: Any, client: ClientId) -> ClientTask | None:
        """The task of the method within."""
        return self.method.task(state.inner, client)

    def aggregate(self, state: Any, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()) -> Any:
        """The aggregation of the method within."""
        return replace(state, inner=self.method.aggregate(state.inner, updates, absent))

    def model(self, state: Any, client: ClientId) -> ClientModel:
        """The model of the method within."""
        return self.method.model(state.inner, client)

    def admit(self, state: Any, client: ClientId, num_examples: int) -> Any:
        """Admits the client to the method within."""
        return replace(state, inner=self.method.admit(state.inner, client, num_examples))

    def group(self, state: Any, client: ClientId) -> int:
        """The group that the method within puts the client into."""
        return self.method.group(state.inner, client)


def innermost(state: Any) -> Any:
    """The state of the method within all that stands around it."""
    return innermost(state.inner) if isinstance(state, WrapperState) else state


def with_innermost(state: Any, new: Any) -> Any:
    """The same state around another one of the method within."""
    return replace(state, inner=with_innermost(state.inner, new)) if isinstance(state, WrapperState) else new
