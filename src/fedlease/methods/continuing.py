"""A method's last state as the first of a run that goes on with other rows, or that groups its clients again."""

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
    """The state with other numbers of train rows for the clients that it knows.

    Args:
        state: of any method, with the wrappers around it.
        rows: client -> n_i, of at least these clients.
    """
    if isinstance(state, WrapperState):
        return replace(state, inner=with_rows(state.inner, rows))
    return replace(state, clients={client: rows[client] for client in state.clients})


def at_round(state: Any, round_: int) -> Any:
    """The state, of any method and with the wrappers around it, at another round; what it holds stays."""
    return with_innermost(state, replace(innermost(state), round=round_))


def without_clients(state: Any, clients: Collection[ClientId]) -> Any:
    """The state as if clients had left: they are asked for nothing, and nothing that is kept by client is theirs.

    What others have learnt from them stays, such as an expert that they trained.
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
    """FedLEASE's state as a run with ``fedlease.reallocate`` has it, or as one without; any other stays as it is.

    What a client has not uploaded yet in the new run is its expert. The warm-ups are gone, by which late clients are
    compared with new groups: they are compared with experts, and as a rule found to be unlike all of them.
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
