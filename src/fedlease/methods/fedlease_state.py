"""Where a FedLEASE run stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedlease.core.codec import serialisable
from fedlease.core.types import ClientId, Tensors
from fedlease.methods.base import CommonState

__all__ = ["FedLeaseState"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class FedLeaseState(CommonState):
    """Where a FedLEASE run stands.

    Attributes:
        seed: root seed, for the router.
        routers: one router per cluster; empty dicts when M = 1 or nothing is routed.
        starts: client -> its warm-up, where round 1 goes on from that; {} after it.
        uploads: client -> the A and B it gave back last, its warm-up at first; kept for ``reallocate`` only.
        origins: client -> its warm-up B, for the centroids of new groups; kept for ``reallocate`` only.
        newcomers: clients that were not there at the start.
        kept_out: client -> its warm-up, of late clients that are unlike every expert.
    """

    seed: int
    routers: tuple[Tensors, ...] = ()
    starts: Mapping[ClientId, Tensors] = field(default_factory=dict)
    uploads: Mapping[ClientId, Tensors] = field(default_factory=dict)
    origins: Mapping[ClientId, Tensors] = field(default_factory=dict)
    newcomers: frozenset[ClientId] = frozenset()
    kept_out: Mapping[ClientId, Tensors] = field(default_factory=dict)
