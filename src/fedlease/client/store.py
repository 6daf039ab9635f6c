"""A client's private tensors, which are trained and never uploaded."""

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
"""The slot of a warm-up, or its halves, of which the server has only a sketch; dropped when no model needs it."""

ELSEWHERE = "elsewhere"
"""The slot in which a server records a client that keeps its tensors on its own machine: ``accepted``, the last step
whose update was used, and ``keeps``, 1 if the client keeps any tensors."""

SPENT = "spent"
"""The slot that counts training under differential privacy, ``steps`` and ``steps_on_halves``; it is never dropped."""

STEPS = ("steps", "steps_on_halves")


@serialisable
@dataclass(frozen=True)
class Private:
    """Private tensors of one client under one method.

    A slot is named by the fingerprint of the adapter's spec to which its tensors belong, or ``"head"``. A head belongs
    to the client rather than an adapter, so it outlives the change of spec at the allocation. A sketched warm-up has a
    slot of its own, since later models may have the same spec.

    Attributes:
        slots: slot -> tensors of updates that the server has used.
        step: the step in which ``pending`` was trained, or None.
        pending: slot -> tensors trained last; they move to ``slots`` when a request says that the update of ``step``
            was used.
        at: the step to which ``slots`` belong; None if no request has said so.
        kept: step -> slots of that earlier step, kept for the round to which early stopping may return.
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
            spec: of the adapter to which they belong.
            tensors: by name, including those of the head.
            keep: function that stores the tensors of a slot.
            sketched: whether they belong to a sketched warm-up.
        """
        heads = head_names(tensors)
        adapter = {name: tensor for name, tensor in tensors.items() if name not in heads}
        own_slot = WARMUP_SLOT if sketched else spec.fingerprint()
        slots = {own_slot: adapter, HEAD_SLOT: {name: tensors[name] for name in sorted(heads)}}
        return replace(self, step=step, pending={slot: keep(own) for slot, own in slots.items() if own})

    def accepted(
        self, step: int | None, model: ClientModel, *, best: int | None = None, undo: bool = False
    ) -> "Private":
        """The state after a request has said which update was used last; nothing is pending any more.

        If that is an earlier step whose slots were kept, they are restored.

        Args:
            step: in which that update was trained. None: no update has been used, so all tensors, left over from a
                stopped server, are dropped.
            model: used from now on; slots of other adapters are dropped.
            best: the step whose slots are kept besides those of the last step.
            undo: whether the server may not have recorded the step yet, so that the slots before it are kept too.
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
        """Number of steps trained under differential privacy, whether or not their update was used."""
        found = self._ledger.get(SPENT, {})
        return Amount(*(int(found.get(name, 0)) for name in STEPS))

    def spending(self, steps: Amount) -> "Private":
        """A copy with more steps under differential privacy."""
        now = self.spent + steps
        counts = dict(zip(STEPS, map(torch.tensor, (now.whole, now.halves)), strict=True))
        return replace(self, slots={**self.slots, SPENT: counts})

    @property
    def _ledger(self) -> Mapping[str, Tensors]:
        return {SPENT: self.slots[SPENT]} if SPENT in self.slots else {}

    def overlay(self, model: ClientModel) -> Tensors:
        """A model's tensors, replaced by private ones of the same names, and the client's anchor if it has one."""
        private = {**self.slots.get(model.spec.fingerprint(), {}), **self.slots.get(HEAD_SLOT, {})}
        if model.warmed:
            private |= whole(self.slots.get(WARMUP_SLOT, {}))
        anchor = {ANCHOR: private[ANCHOR]} if ANCHOR in private else {}
        return {**{name: private.get(name, tensor) for name, tensor in model.tensors.items()}, **anchor}

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors, including pending ones, except those of a sketched warm-up."""
        both = (*self.slots.items(), *self.pending.items())
        return frozenset(name for slot, own in both if slot not in (SPENT, WARMUP_SLOT) for name in own)


def is_elsewhere(slots: Mapping[str, Tensors]) -> bool:
    """Whether a client keeps private tensors on another machine, so that these slots are not its whole model."""
    record = slots.get(ELSEWHERE)
    return record is not None and bool(record["keeps"])
