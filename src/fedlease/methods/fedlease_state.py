"""Where a FedLEASE run stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedlease.core.allocate import Centres
from fedlease.core.codec import serialisable
from fedlease.core.types import Allocation, ClientId, ClientModel, Tensors

__all__ = ["FedLeaseState"]


@serialisable
@dataclass(frozen=True)
class FedLeaseState:
    """Where a FedLEASE run stands.

    Attributes:
        round: 0 until the experts are allocated.
        seed: root seed, for the router.
        adapter: what every client starts from, late ones too.
        clients: client -> n_i.
        warmups: client -> its warm-up A and B; emptied by the allocation.
        tries: client -> warm-ups that were refused.
        allocation: None until every client has been asked; under ``reallocate`` the last that changed a group.
        centres: what places late clients; None until the allocation.
        assignment: client -> expert, the allocation's and those placed since.
        experts: one state per expert, numbered as expert 0.
        routers: one router per cluster; empty dicts when M = 1 or nothing is routed.
        starts: client -> its warm-up, where round 1 goes on from that; {} after it.
        uploads: client -> the A and B it gave back last, its warm-up at first; kept for ``reallocate`` only.
        origins: client -> its warm-up B, for the centres of new groups; kept for ``reallocate`` only.
        newcomers: clients that were not there at the start.
        kept_out: client -> its warm-up, of late clients that are unlike every expert.
        warnings: plain sentences about late placements, new groups, and a ``top_k`` that does not go with the rest.
    """

    round: int
    seed: int
    adapter: ClientModel
    clients: Mapping[ClientId, int]
    warmups: Mapping[ClientId, Tensors] = field(default_factory=dict)
    tries: Mapping[ClientId, int] = field(default_factory=dict)
    allocation: Allocation | None = None
    centres: Centres | None = None
    assignment: Mapping[ClientId, int] = field(default_factory=dict)
    experts: tuple[Tensors, ...] = ()
    routers: tuple[Tensors, ...] = ()
    starts: Mapping[ClientId, Tensors] = field(default_factory=dict)
    uploads: Mapping[ClientId, Tensors] = field(default_factory=dict)
    origins: Mapping[ClientId, Tensors] = field(default_factory=dict)
    newcomers: frozenset[ClientId] = frozenset()
    kept_out: Mapping[ClientId, Tensors] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
