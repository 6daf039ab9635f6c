"""Conversion of a run's last state to the first state of a run that continues it."""

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any

from fedlease.core.adapters import b_matrices
from fedlease.core.allocate import reduced
from fedlease.core.types import Allocation, ClientId
from fedlease.methods.base import State
from fedlease.methods.fedlease import FedLeaseState
from fedlease.methods.fedlease_halves import HalvesState
from fedlease.methods.fedlease_reallocation import ReallocateState
from fedlease.methods.fedlease_unsure import JoinLaterState
from fedlease.methods.warmup import Warmup
from fedlease.methods.wrapper import WrapperState, innermost, with_innermost

__all__ = ["at_round", "grouping_again", "with_rows", "without_clients"]


def with_rows(state: Any, rows: Mapping[ClientId, int]) -> Any:
    """The state with new numbers of train rows for its clients.

    Args:
        state: of any method, wrapped or not.
        rows: client -> n_i, for at least the clients of the state.
    """
    if isinstance(state, WrapperState):
        return replace(state, inner=with_rows(state.inner, rows))
    return replace(state, clients={client: rows[client] for client in state.clients})


def at_round(state: Any, round_: int) -> Any:
    """The state of any method, wrapped or not, with another round number."""
    return with_innermost(state, replace(innermost(state), round=round_))


def without_clients(state: Any, clients: Collection[ClientId]) -> Any:
    """The state without some clients: they get no tasks, and their entries are removed from every mapping.

    Tensors that they helped to train, such as experts, stay.
    """
    changes: dict[str, Any] = {}
    for field in fields(state):
        value = getattr(state, field.name)
        if isinstance(value, State):
            changes[field.name] = without_clients(value, clients)
        elif isinstance(value, Warmup):
            results = {client: own for client, own in value.results.items() if client not in clients}
            changes[field.name] = Warmup(results, {c: n for c, n in value.refusals.items() if c not in clients})
        elif isinstance(value, Allocation):
            changes[field.name] = reduced(value, clients)
        elif isinstance(value, Mapping) and any(client in value for client in clients):
            changes[field.name] = {client: own for client, own in value.items() if client not in clients}
        elif isinstance(value, frozenset):
            changes[field.name] = value.difference(clients)
    return replace(state, **changes)


def grouping_again(state: Any, *, again: bool) -> Any:
    """Converts FedLEASE's state for a run with or without ``fedlease.reallocate``; other states are returned unchanged.

    Until a client uploads in the new run, its expert counts as its last upload. The warm-ups, with which late clients
    are compared, are no longer known: experts take their place, and late clients are usually unlike all of them.

    Args:
        state: of any method, wrapped or not.
        again: whether the new run groups clients again.
    """
    if isinstance(state, ReallocateState | JoinLaterState):
        return state if again else state.inner
    if isinstance(state, HalvesState):
        return JoinLaterState(inner=state) if again else state
    if isinstance(state, FedLeaseState):
        if not again:
            return state
        uploads = {client: state.experts[expert] for client, expert in state.assignment.items()}
        origins = {client: b_matrices(tensors) for client, tensors in uploads.items()}
        return ReallocateState(inner=state, uploads=uploads, origins=origins)
    if isinstance(state, WrapperState):
        return replace(state, inner=grouping_again(state.inner, again=again))
    return state
