"""A base for methods that wrap another method and state only what they change."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, ClassVar

from fedlease.core.types import Budget, ClientId, ClientModel, ClientTask, ClientUpdate
from fedlease.methods.base import Method, State

__all__ = ["Wrapper", "WrapperState", "innermost", "with_innermost"]


def _within(name: str) -> Any:
    """A property that reads a field of the wrapped state."""
    return property(attrgetter(f"inner.{name}"))


@dataclass(frozen=True, kw_only=True)
class WrapperState:
    """A state that has the fields of the wrapped method's state; wrappers add their own.

    Attributes:
        inner: state of the wrapped method.
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
    """A method that passes every call on to the wrapped method.

    Attributes:
        STATE: class of the state, which holds the wrapped method's state.
        method: the wrapped method.
    """

    STATE: ClassVar[type[WrapperState]] = WrapperState

    method: Method

    @property
    def budget(self) -> Budget:
        """The wrapped method's budget."""
        return self.method.budget

    @property
    def last_round(self) -> int:
        """The wrapped method's last round."""
        return self.method.last_round

    @property
    def averaged(self) -> tuple[str, ...]:
        """The wrapped method's fields that hold means."""
        return self.method.averaged

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> Any:
        """Wraps the wrapped method's first state."""
        return self.STATE(inner=self.method.init(adapter, clients, seed))

    def task(self, state: Any, client: ClientId) -> ClientTask | None:
        """The wrapped method's task."""
        return self.method.task(state.inner, client)

    def aggregate(self, state: Any, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()) -> Any:
        """The wrapped method's aggregation."""
        return replace(state, inner=self.method.aggregate(state.inner, updates, absent))

    def model(self, state: Any, client: ClientId) -> ClientModel:
        """The wrapped method's model."""
        return self.method.model(state.inner, client)

    def admit(self, state: Any, client: ClientId, num_examples: int) -> Any:
        """Admits the client to the wrapped method."""
        return replace(state, inner=self.method.admit(state.inner, client, num_examples))

    def group(self, state: Any, client: ClientId) -> int:
        """The group into which the wrapped method puts the client."""
        return self.method.group(state.inner, client)


def innermost(state: Any) -> Any:
    """The state of the innermost wrapped method."""
    return innermost(state.inner) if isinstance(state, WrapperState) else state


def with_innermost(state: Any, new: Any) -> Any:
    """The state with the innermost wrapped state replaced."""
    return replace(state, inner=with_innermost(state.inner, new)) if isinstance(state, WrapperState) else new
