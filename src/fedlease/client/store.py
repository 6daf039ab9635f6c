"""A client's private tensors: trained, never uploaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from fedlease.core.adapters import whole
from fedlease.core.codec import serialisable
from fedlease.core.row_noise import Amount
from fedlease.core.types import ANCHOR, AdapterSpec, ClientModel, Tensors, head_names

__all__ = ["ELSEWHERE", "HEAD_SLOT", "SPENT", "WARMUP_SLOT", "Private", "is_elsewhere"]

HEAD_SLOT = "head"
WARMUP_SLOT = "warm-up"
"""The slot of a warm-up, or its halves, of which the server has a sketch alone; it goes once a model comes without."""

ELSEWHERE = "elsewhere"
"""The slot in which a server records a client that keeps its tensors on its own machine: ``accepted``, the last step
whose update was used, and ``keeps``, 1 where the client keeps anything."""

SPENT = "spent"
"""The slot that counts what a client has trained under differential privacy, ``steps`` and ``steps_on_halves``; it
outlives all others."""

STEPS = ("steps", "steps_on_halves")


@serialisable
@dataclass(frozen=True)
class Private:
    """Private tensors of one client under one method.

    A slot is named by what its tensors belong to: the fingerprint of an adapter's spec, or ``"head"``. A head belongs
    to the client and not to an adapter, so it outlives the change of spec at the allocation. A sketched warm-up has a
    slot of its own, since what comes after it may have the same spec.

    Attributes:
        slots: slot -> tensors of updates that the server used.
        step: the step in which ``pending`` was trained, or None.
        pending: slot -> what was trained last; moves into the slots once a request says that the update of ``step`` was
            used.
        at: the step that the slots are of; None where no request has told.
        kept: slots of earlier steps, by step: those of the round that early stopping may come back to.
    """

    slots: Mapping[str, Tensors] = field(default_factory=dict)
    step: int | None = None
    pending: Mapping[str, Tensors] = field(default_factory=dict)
    at: int | None = None
    kept: Mapping[str, Mapping[str, Tensors]] = field(default_factory=dict)

    def trained(
        self,
        step: int,
        spec: AdapterSpec,
        tensors: Tensors,
        keep: Callable[[Tensors], Tensors] = dict,
        *,
        sketched: bool = False,
    ) -> "Private":
        """A copy in which the private tensors of one more task are pending.

        Args:
            step: in which they were trained.
            spec: of the adapter that they belong to.
            tensors: by name, those of the head among them.
            keep: puts the tensors of a slot where they stay.
            sketched: whether they are of a warm-up that was sketched.
        """
        heads = head_names(tensors)
        adapter = {name: tensor for name, tensor in tensors.items() if name not in heads}
        own_slot = WARMUP_SLOT if sketched else spec.fingerprint()
        slots = {own_slot: adapter, HEAD_SLOT: {name: tensors[name] for name in sorted(heads)}}
        return replace(self, step=step, pending={slot: keep(own) for slot, own in slots.items() if own})

    def accepted(
        self, step: int | None, model: ClientModel, *, best: int | None = None, undo: bool = False
    ) -> "Private":
        """The state once the client's last used update is known to the server; nothing stays pending.

        The slots of an earlier step come back where ``step`` is that one and they were kept.

        Args:
            step: in which that update was trained. None: no update was used yet, so whatever lies here is left over
                from a server that was stopped, and goes.
            model: in use from now on; slots of other adapters go.
            best: the step whose slots are kept beside those of the last one.
            undo: whether the server may not have recorded the step yet, so that the slots before it are kept, too.
        """
        if step is None:
            return Private(self._ledger)
        slots, at, kept = dict(self.slots), self.at, {key: self.kept[key] for key in self.kept if key == str(best)}
        if self.step == step:
            if at is not None and (undo or at == best):
                kept[str(at)] = self.slots
            slots, at = {**slots, **self.pending}, step
        elif at != step and str(step) in self.kept:
            slots, at = dict(self.kept[str(step)]), step
        lasting = (HEAD_SLOT, model.spec.fingerprint(), *([WARMUP_SLOT] if model.warmed else []))
        own = {slot: slots[slot] for slot in slots if slot in lasting}
        return Private({**own, **self._ledger}, at=at, kept=kept)

    @property
    def spent(self) -> Amount:
        """Steps trained under differential privacy, whether their update was used or not."""
        found = self._ledger.get(SPENT, {})
        return Amount(*(int(found.get(name, 0)) for name in STEPS))

    def spending(self, steps: Amount) -> "Private":
        """A copy that has spent more such steps."""
        now = self.spent + steps
        counts = dict(zip(STEPS, map(torch.tensor, (now.whole, now.halves)), strict=True))
        return replace(self, slots={**self.slots, SPENT: counts})

    @property
    def _ledger(self) -> Mapping[str, Tensors]:
        return {SPENT: self.slots[SPENT]} if SPENT in self.slots else {}

    def overlay(self, model: ClientModel) -> Tensors:
        """A model's tensors with the private ones laid over those of the same name, and the client's anchor if it has
        one.
        """
        private = {**self.slots.get(model.spec.fingerprint(), {}), **self.slots.get(HEAD_SLOT, {})}
        if model.warmed:
            private |= whole(self.slots.get(WARMUP_SLOT, {}))
        anchor = {ANCHOR: private[ANCHOR]} if ANCHOR in private else {}
        return {**{name: private.get(name, tensor) for name, tensor in model.tensors.items()}, **anchor}

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors, pending ones too; not of a sketched warm-up, which is laid over models that ask for
        it alone.
        """
        both = (*self.slots.items(), *self.pending.items())
        return frozenset(name for slot, own in both if slot not in (SPENT, WARMUP_SLOT) for name in own)


def is_elsewhere(slots: Mapping[str, Tensors]) -> bool:
    """Whether a client keeps private tensors on another machine, so that the slots here are not its whole model."""
    record = slots.get(ELSEWHERE)
    return record is not None and bool(record["keeps"])
