"""Groupings of FedLEASE's clients by expert: the paper's clusters, and others for ablations and trials."""

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
    """Decides which clients train one expert; a small frozen object."""

    def planned(self, clients: Collection[ClientId]) -> Mapping[ClientId, int]:
        """Client -> group, where groups are known before anything is trained; by default they are not.

        Raises:
            ConfigError: the clients do not fit the grouping; the message names the setting.
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
    """Clusters by distance, M by the mean silhouette; as in the paper unless a parameter says otherwise.

    Attributes:
        signal: what is compared: ``B`` (paper), ``A``, or the products ``BA``.
        clustering: ``hierarchical`` (paper) or ``spectral``.
        num_experts: M, whatever the silhouettes say; None lets them choose. 1 is FedIT after a warm-up.
        guarded: whether contrary and copied warm-ups are kept from deciding M, see
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
            RunFailedError: ``num_experts`` groups cannot be told apart, as among clients whose uploads are the same.
        """
        b, d = _b(uploads), None
        if self.signal != "B":
            a = {client: a_matrices(tensors) for client, tensors in uploads.items()}
            d = (distances(a) if self.signal == "A" else product_distances(b, a))[1]
        # Fewer clients may have answered than were there at the start.
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
        """Groups nobody with anybody."""
        return assign(_b(uploads), self.planned(uploads))


@dataclass(frozen=True)
class Random(Grouping):
    """Groups of equal size, drawn from the seed.

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
    """Groups that the settings name.

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
        """Takes the groups as they are."""
        return assign(_b(uploads), self.assignment)


def _b(uploads: Mapping[ClientId, Tensors]) -> dict[ClientId, dict[str, torch.Tensor]]:
    return {client: b_matrices(tensors) for client, tensors in uploads.items()}


def _check_number(num_experts: int | None, clients: Collection[ClientId]) -> None:
    if num_experts is not None and not 1 <= num_experts <= len(clients):
        raise ConfigError(
            f"fedlease.num_experts: must be in 1 .. {len(clients)}, the number of clients, received {num_experts}"
        )
