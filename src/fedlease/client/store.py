"""The private tensors of every client: trained, never uploaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedlease.core.types import ANCHOR, AdapterSpec, ClientId, Tensors, head_names

__all__ = ["BOOK_SLOT", "HEAD_SLOT", "ClientStore"]

HEAD_SLOT = "head"
BOOK_SLOT = "elsewhere"
"""What a server notes of a client that keeps its tensors on its own machine: ``accepted``, its last step whose update
was used, and ``keeps``, 1 where it keeps anything."""


@dataclass
class ClientStore:
    """Keyed by client and by what the tensors belong to: the fingerprint of an adapter's spec, or ``"head"``.

    A head belongs to the client and not to an adapter, so it outlives the change of spec at the allocation.
    """

    slots: dict[ClientId, dict[str, Tensors]] = field(default_factory=dict)

    def get(self, client: ClientId, spec: AdapterSpec) -> dict[str, Tensor]:
        """The client's private tensors that fit this adapter, by name."""
        kept = self.slots.get(client, {})
        return {**kept.get(spec.fingerprint(), {}), **kept.get(HEAD_SLOT, {})}

    def put(self, client: ClientId, spec: AdapterSpec, tensors: Tensors) -> None:
        """Replaces what the client keeps for this adapter, and its head where one is given."""
        heads = head_names(tensors)
        kept = self.slots.setdefault(client, {})
        adapter = {name: tensor for name, tensor in tensors.items() if name not in heads}
        if adapter:
            kept[spec.fingerprint()] = adapter
        if heads:
            kept[HEAD_SLOT] = {name: tensors[name] for name in heads}

    def overlay(self, client: ClientId, spec: AdapterSpec, tensors: Tensors) -> Tensors:
        """``tensors`` with the client's private ones laid over those of the same name, and its anchor if it has one."""
        private = self.get(client, spec)
        anchor = {ANCHOR: private[ANCHOR]} if ANCHOR in private else {}
        return {**{name: private.get(name, tensor) for name, tensor in tensors.items()}, **anchor}

    def is_elsewhere(self, client: ClientId) -> bool:
        """Whether the client keeps tensors on another machine, so that what is here is not its model."""
        book = self.slots.get(client, {}).get(BOOK_SLOT)
        return book is not None and bool(book["keeps"])

    def forget_other_specs(self, keep: Mapping[ClientId, AdapterSpec]) -> None:
        """Drops adapters of specs that are no longer in use."""
        for client, kept in self.slots.items():
            wanted = {HEAD_SLOT, keep[client].fingerprint()} if client in keep else set(kept)
            self.slots[client] = {slot: tensors for slot, tensors in kept.items() if slot in wanted}
