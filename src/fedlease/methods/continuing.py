"""A method's last state as the first of a run that goes on with other rows, or that groups its clients again."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedlease.core.adapters import b_matrices
from fedlease.core.types import ClientId
from fedlease.methods.fedlease import FedLeaseState
from fedlease.methods.fedlease_reallocation import ReallocateState
from fedlease.methods.wrapper import WrapperState

__all__ = ["grouping_again", "with_rows"]


def with_rows(state: Any, rows: Mapping[ClientId, int]) -> Any:
    """The state with other numbers of train rows for the clients that it knows.

    Args:
        state: of any method, with the wrappers around it.
        rows: client -> n_i, of at least these clients.
    """
    if isinstance(state, WrapperState):
        return replace(state, inner=with_rows(state.inner, rows))
    return replace(state, clients={client: rows[client] for client in state.clients})


def grouping_again(state: Any, *, again: bool) -> Any:
    """FedLEASE's state as a run with ``fedlease.reallocate`` has it, or as one without; any other stays as it is.

    What a client has not uploaded yet in the new run is its expert. The warm-ups are gone, by which late clients are
    compared with new groups: they are compared with experts, and as a rule found to be unlike all of them.
    """
    if isinstance(state, ReallocateState):
        return state if again else state.inner
    if isinstance(state, FedLeaseState):
        if not again:
            return state
        uploads = {client: state.experts[expert] for client, expert in state.assignment.items()}
        origins = {client: b_matrices(tensors) for client, tensors in uploads.items()}
        return ReallocateState(inner=state, uploads=uploads, origins=origins)
    if isinstance(state, WrapperState):
        return replace(state, inner=grouping_again(state.inner, again=again))
    return state
