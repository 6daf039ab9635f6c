"""Which clients of FedLEASE train one expert: by clustering what they uploaded (paper), or as the variants say."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from fedlease.core.adapters import a_matrices, b_matrices
from fedlease.core.allocate import allocate, assign
from fedlease.core.distances import distances, product_distances
from fedlease.core.placement import Centroids, place
from fedlease.core.seeds import generator
from fedlease.core.types import Allocation, ClientId, Tensors
from fedlease.errors import ConfigError, RunFailedError

if TYPE_CHECKING:
    from fedlease.methods.fedlease import FedLease

__all__ = ["Grouping", "Placed", "Signal", "check_grouping", "group_clients", "parted", "place_late"]

Grouping = Literal["clusters", "clients", "random", "given"]
Signal = Literal["B", "A", "BA"]


def check_grouping(method: "FedLease", clients: Collection[ClientId]) -> None:
    """Checks that the grouping and the clients fit, before anything is trained.

    Raises:
        ConfigError: they do not; the message names the parameter.
    """
    if method.grouping == "random" and method.num_experts is None:
        raise ConfigError("fedlease.num_experts: is required when fedlease.grouping is 'random'")
    if method.num_experts is not None and not 1 <= method.num_experts <= len(clients):
        raise ConfigError(
            f"fedlease.num_experts: must be in 1 .. {len(clients)}, the number of clients, "
            f"received {method.num_experts}"
        )
    missing = sorted(set(clients) - (method.assignment or {}).keys()) if method.grouping == "given" else []
    if missing:
        raise ConfigError(f"fedlease.assignment: names no group for clients {missing}")
    if method.reallocate is not None and method.reallocate < 1:
        raise ConfigError(f"fedlease.reallocate: must be at least 1, received {method.reallocate}")
    if method.reallocate is not None and method.grouping != "clusters":
        raise ConfigError(f"fedlease.reallocate: needs fedlease.grouping = 'clusters', it is {method.grouping!r}")


def group_clients(method: "FedLease", uploads: Mapping[ClientId, Tensors], seed: int) -> Allocation:
    """Groups the clients by their A and B, under the parameters of the method.

    Args:
        method: see its ``grouping`` and what belongs to it.
        uploads: client -> A and B, numbered as expert 0.
        seed: root seed, for ``random``.

    Raises:
        RunFailedError: ``num_experts`` groups cannot be told apart, as among clients whose uploads are the same.
    """
    b = {client: b_matrices(tensors) for client, tensors in uploads.items()}
    clients = sorted(b)
    if method.grouping == "clients":
        return assign(b, {client: i for i, client in enumerate(clients)})
    if method.grouping == "given":
        return assign(b, dict(method.assignment or {}))
    if method.grouping == "random":
        order = torch.randperm(len(clients), generator=generator(seed, "random grouping")).tolist()
        count = min(method.num_experts or 1, len(clients))
        return assign(b, {clients[i]: place_ % count for place_, i in enumerate(order)})
    d = None
    if method.signal != "B":
        a = {client: a_matrices(tensors) for client, tensors in uploads.items()}
        d = (distances(a) if method.signal == "A" else product_distances(b, a))[1]
    try:
        return allocate(
            b,
            max_experts=method.max_experts,
            min_silhouette=method.min_silhouette,
            linkage=method.linkage,
            clustering=method.clustering,
            num_experts=None if method.num_experts is None else min(method.num_experts, len(clients)),
            d=d,
        )
    except ValueError as error:
        raise RunFailedError(f"fedlease: the clients cannot be grouped: {error}") from error


@dataclass(frozen=True)
class Placed:
    """What became of late clients.

    Attributes:
        assignment: client -> expert.
        kept_out: client -> its warm-up, of those unlike every expert.
        said: a sentence about each.
    """

    assignment: Mapping[ClientId, int]
    kept_out: Mapping[ClientId, Tensors]
    said: tuple[str, ...]


def place_late(
    method: "FedLease", late: Mapping[ClientId, Tensors], newcomers: Collection[ClientId], known: Centroids
) -> Placed:
    """Late clients go to the experts whose warm-ups theirs are nearest to; newcomers unlike all of them wait.

    Args:
        method: see its ``unlike`` and ``admitted``.
        late: client -> warm-up, from the same initial A.
        newcomers: those of the run's clients that were not there at the start.
        known: of the clusters.
    """
    assignment, kept_out, said = dict[ClientId, int](), dict[ClientId, Tensors](), []
    for client, tensors in sorted(late.items()):
        placement = place(b_matrices(tensors), known)
        where = (
            f"expert {placement.expert} at distance {placement.distances[placement.expert]:.3f}, margin "
            f"{placement.margin:.3f}"
        )
        new = client in newcomers and client not in method.admitted
        if placement.unlike and new and method.unlike == "keep_out":
            kept_out[client] = tensors
            said.append(
                f"client {client!r} came late and is kept out: it is unlike every expert, nearest is {where}, farther "
                "than any of its members; fedlease.admitted takes it in"
            )
            continue
        assignment[client] = placement.expert
        said.append(
            f"client {client!r} came late and was placed with {where}"
            + (", farther than any of its members" if placement.unlike else "")
        )
    return Placed(assignment, kept_out, tuple(said))


def parted(before: Mapping[ClientId, int], after: Mapping[ClientId, int]) -> list[ClientId]:
    """The clients of ``after`` whose companions are others than before, sorted; numbers of groups do not matter."""

    def companions(groups: Mapping[ClientId, int], client: ClientId) -> set[ClientId]:
        return {other for other in groups if groups[other] == groups[client]}

    return [client for client in sorted(after) if companions(before, client) != companions(after, client)]
