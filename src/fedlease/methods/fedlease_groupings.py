"""Rules that decide which clients train one expert: the paper's clusters, and others for ablations and trials."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from fedlease.core.adapters import a_matrices, b_matrices
from fedlease.core.allocate import allocate, assign
from fedlease.core.choices import Clustering, Signal
from fedlease.core.distances import distances, product_distances
from fedlease.core.seeds import generator
from fedlease.core.types import Allocation, ClientId, Tensors
from fedlease.errors import ConfigError, RunFailedError

__all__ = ["ByClusters", "Given", "Grouping", "PerClient", "Random"]


class Grouping(Protocol):
    """A rule that decides which clients train one expert."""

    def planned(self, clients: Collection[ClientId]) -> Mapping[ClientId, int]:
        """Client -> group, if groups are known before any training; {} otherwise.

        Raises:
            ConfigError: the grouping does not fit the clients; the message names the setting.
        """
        return {}

    def __call__(self, uploads: Mapping[ClientId, Tensors], seed: int, **rule: Any) -> Allocation:
        """Groups the clients by their A and B, numbered as expert 0.

        Args:
            uploads: client -> A and B.
            seed: root seed.
            rule: ``max_experts``, ``min_silhouette`` and ``linkage``, as :func:`fedlease.core.allocate.allocate`.
        """


@dataclass(frozen=True)
class ByClusters(Grouping):
    """Clusters by distance, with M chosen by the mean silhouette; the defaults are the paper's.

    Attributes:
        signal: the matrices that are compared: ``B`` (paper), ``A``, or the products ``BA``.
        clustering: ``hierarchical`` (paper) or ``spectral``.
        num_experts: fixed M; None chooses M by the silhouettes. 1 is FedIT after a warm-up.
        guarded: whether to keep opposite and copied warm-ups from deciding M, see
            :func:`fedlease.core.allocate.allocate`.
    """

    signal: Signal = "B"
    clustering: Clustering = "hierarchical"
    num_experts: int | None = None
    guarded: bool = False

    def planned(self, clients: Collection[ClientId]) -> Mapping[ClientId, int]:
        """Makes sure that ``num_experts`` is at most the number of clients."""
        _check_number(self.num_experts, clients)
        return {}

    def __call__(self, uploads: Mapping[ClientId, Tensors], seed: int, **rule: Any) -> Allocation:
        """Groups the clients.

        Raises:
            RunFailedError: there is no grouping into ``num_experts``, for example if all uploads are equal.
        """
        b, d = _b(uploads), None
        if self.signal != "B":
            a = {client: a_matrices(tensors) for client, tensors in uploads.items()}
            d = (distances(a) if self.signal == "A" else product_distances(b, a))[1]
        # Not all clients may have answered.
        number = None if self.num_experts is None else min(self.num_experts, len(b))
        try:
            return allocate(b, clustering=self.clustering, num_experts=number, d=d, guarded=self.guarded, **rule)
        except ValueError as error:
            raise RunFailedError(f"fedlease: the clients cannot be grouped: {error}") from error


@dataclass(frozen=True)
class PerClient(Grouping):
    """One expert per client."""

    def planned(self, clients: Collection[ClientId]) -> Mapping[ClientId, int]:
        """One group per client."""
        return {client: number for number, client in enumerate(sorted(clients))}

    def __call__(self, uploads: Mapping[ClientId, Tensors], seed: int, **rule: Any) -> Allocation:
        """Gives every client an expert of its own."""
        return assign(_b(uploads), self.planned(uploads))


@dataclass(frozen=True)
class Random(Grouping):
    """Random groups of equal size (up to one client), drawn from the seed.

    Attributes:
        num_experts: M.
    """

    num_experts: int

    def planned(self, clients: Collection[ClientId]) -> Mapping[ClientId, int]:
        """Makes sure that ``num_experts`` is at most the number of clients."""
        _check_number(self.num_experts, clients)
        return {}

    def __call__(self, uploads: Mapping[ClientId, Tensors], seed: int, **rule: Any) -> Allocation:
        """Draws the groups."""
        clients = sorted(uploads)
        order = torch.randperm(len(clients), generator=generator(seed, "random grouping")).tolist()
        count = min(self.num_experts, len(clients))
        return assign(_b(uploads), {clients[i]: place % count for place, i in enumerate(order)})


@dataclass(frozen=True)
class Given(Grouping):
    """Groups given by the settings.

    Attributes:
        assignment: client -> group.
    """

    assignment: Mapping[ClientId, int]

    def planned(self, clients: Collection[ClientId]) -> Mapping[ClientId, int]:
        """The group of every client."""
        if missing := sorted(set(clients) - self.assignment.keys()):
            raise ConfigError(f"fedlease.assignment: names no group for clients {missing}")
        return {client: self.assignment[client] for client in clients}

    def __call__(self, uploads: Mapping[ClientId, Tensors], seed: int, **rule: Any) -> Allocation:
        """Makes the given groups."""
        return assign(_b(uploads), self.assignment)


def _b(uploads: Mapping[ClientId, Tensors]) -> dict[ClientId, dict[str, torch.Tensor]]:
    return {client: b_matrices(tensors) for client, tensors in uploads.items()}


def _check_number(num_experts: int | None, clients: Collection[ClientId]) -> None:
    if num_experts is not None and not 1 <= num_experts <= len(clients):
        raise ConfigError(
            f"fedlease.num_experts: must be in 1 .. {len(clients)}, the number of clients, received {num_experts}"
        )
