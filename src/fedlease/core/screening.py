"""What gives a liar away among updates of the right form: how far they go, what they repeat, where they point.

Every rule is one that honest training keeps by itself, so that a run without liars is the same with and without them.
None of them makes a lie harmless that stays within the bounds: for that there are means that outvote few clients
(:mod:`fedlease.core.robust_means`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median

import torch
from torch import Tensor

from fedlease.core.serialisable import serialisable
from fedlease.core.types import ClientId, ClientTask, ClientUpdate, TensorName, Tensors, second_half

__all__ = [
    "Bounds",
    "Change",
    "Findings",
    "beyond_the_step",
    "change_of",
    "compare",
    "copied",
    "replayed",
    "sample",
    "start_of",
]

LEAST = 3
"""Updates that a median needs, so that one cannot move it beyond the others."""

SAME = 0.01
"""Two updates are one where they differ by less than this share of what training changed."""

AGAINST = -0.5
"""Cosine with the sum of the others of its cluster below which an update is said to point against them."""

ROUNDED = 1 / 100
"""Share of a tensor's largest value that rounding on the way may change, see :mod:`fedlease.privacy.bfloat16`."""

SAMPLED = 8
"""Values of every tensor that are remembered of an upload, by which it is recognised when it comes again."""


@dataclass(frozen=True)
class Bounds:
    """The rules, and what they need to know of the optimiser; by default there are none.

    Attributes:
        norm: an update is at most so many times as long as the median of its cluster; None: no rule.
        step: a value changes by at most so many learning rates in an optimiser step; None: no rule. AdamW with
            beta_1 = .9 and beta_2 = .999 cannot do more than 7.3 (Cauchy and Schwarz, of its two moments).
        copies: whether copies and replays are looked for.
        lr: learning rate.
        weight_decay: of AdamW.
        batch_size: rows per step.
    """

    norm: float | None = None
    step: float | None = None
    copies: bool = False
    lr: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 1

    def steps(self, task: ClientTask, rows: int) -> int:
        """The optimiser steps that a task takes at most."""
        return sum(stage.epochs for stage in task.stages) * math.ceil(rows / self.batch_size)


@dataclass(frozen=True)
class Change:
    """What an update changed.

    Attributes:
        start: the uploaded tensors before training.
        tensors: after it, with the names of ``start`` and perhaps more.
        steps: that the client had for it.
        length: of the change over all tensors, Euclidean.
    """

    start: Tensors
    tensors: Tensors
    steps: int
    length: float

    def of(self, name: str) -> Tensor:
        """The change of one tensor, in float64; computed when it is asked for, so that no step is in memory twice."""
        return self.tensors[name].double() - self.start[name].double()


@serialisable
@dataclass(frozen=True)
class Seen:
    """What is remembered of an update that was used.

    Attributes:
        warmup: whether it was a warm-up.
        length: of its change.
        steps: that the client had for it.
        sample: see :func:`sample`.
    """

    warmup: bool
    length: float
    steps: int
    sample: Tensor


@dataclass
class Findings:
    """What a comparison of updates found, one sentence each.

    Attributes:
        refused: client -> why its update must not be used.
        named: client -> what is odd about an update that is used.
    """

    refused: dict[ClientId, str] = field(default_factory=dict)
    named: dict[ClientId, list[str]] = field(default_factory=dict)

    def name(self, client: ClientId, what: str) -> None:
        """Adds an oddity."""
        self.named.setdefault(client, []).append(what)


def start_of(task: ClientTask, choice: int | None) -> dict[str, Tensor]:
    """What the uploaded tensors were before training, under the names of the upload."""
    model, names = task.model, task.upload
    if task.halves:
        one, other = model.candidates or ({}, {})
        own = {name: {**model.tensors, **one}[name] for name in names}
        return {**own, **second_half({name: {**model.tensors, **other}[name] for name in names})}
    # Of candidates that are compared on refitted heads the first two are the client's own, and leave the model alone.
    chosen = model.candidates[choice] if choice is not None and not (task.refit and choice < 2) else {}
    return {name: {**model.tensors, **chosen}[name] for name in names}


def change_of(task: ClientTask, update: ClientUpdate, steps: int) -> Change:
    """What an update changed, of an update that :func:`fedlease.core.aggregate.check_update` passed."""
    start = start_of(task, update.choice)
    return Change(start, update.tensors, steps, _apart(update.tensors, start))


def beyond_the_step(task: ClientTask, update: ClientUpdate, rows: int, bounds: Bounds) -> str:
    """Why no optimiser of the settings can have made an update; empty where it can.

    A value w changes by at most n lr (c + weight decay x max |w|) in n steps, with c of ``bounds.step``.
    """
    if bounds.step is None:
        return ""
    steps = bounds.steps(task, rows)
    for name, tensor in sorted(start_of(task, update.choice).items()):
        if not tensor.numel():
            continue
        largest = float(tensor.abs().max())
        most = steps * bounds.lr * (bounds.step + bounds.weight_decay * largest) + ROUNDED * largest
        found = float((update.tensors[name] - tensor).abs().max())
        if found > most:
            return (
                f"{name} holds a value that changed by {found:.3g}, and {steps} steps at train.lr = {bounds.lr:g} "
                f"cannot change one by more than {most:.3g} (bounds.step)"
            )
    return ""


def copied(task: ClientTask, update: ClientUpdate) -> str:
    """Why an update is no result of training but a copy of what was sent; empty where it is none.

    An update that leaves everything as it was is no lie: rows may teach the uploaded tensors nothing.
    """
    start = start_of(task, update.choice)
    moved = _apart(update.tensors, start)
    if not moved:
        return ""
    for what, tensors in _others_sent(task, update):
        if _apart(update.tensors, tensors) <= SAME * moved:
            return f"it is a copy of {what} that it was sent (bounds.copies)"
    if task.halves:
        halves = second_half({name: update.tensors[name] for name in task.upload})
        own = {name: update.tensors[name] for name in halves}
        if halves and _apart(own, halves) <= SAME * moved:
            return "the adapters of the two halves of its rows are one and the same (bounds.copies)"
    return ""


def sample(tensors: Tensors) -> Tensor:
    """A few values of every tensor, in the order of their names: what is remembered of an upload."""
    picked = [tensors[name].detach().flatten().float().cpu() for name in sorted(tensors)]
    return torch.cat([flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED] for flat in picked] or [torch.empty(0)])


def replayed(client: ClientId, now: Tensor, start: Tensor, seen: Mapping[ClientId, Mapping[int, Seen]]) -> str:
    """Why an upload is one that came before; empty where it is none.

    Args:
        client: who sent it.
        now: its sample.
        start: the sample of what it was trained from.
        seen: client -> step -> what was used then.
    """
    moved = float((now - start).norm())
    for other in sorted(seen):
        for step, then in sorted(seen[other].items()):
            same = moved and then.sample.shape == now.shape
            if same and float((now - then.sample).norm()) <= SAME * moved:
                whose = "it" if other == client else f"client {other!r}"
                return f"it is the update that {whose} sent in step {step} (bounds.copies)"
    return ""


def compare(
    changes: Mapping[ClientId, Change],
    clusters: Sequence[Sequence[ClientId]],
    bounds: Bounds,
    *,
    before: Mapping[ClientId, Seen] | None = None,
    directions: bool = True,
) -> Findings:
    """Compares the updates of one step.

    An update is refused when it is longer than ``bounds.norm`` times the median of its cluster and that of all
    clients, both by itself and per optimiser step: a client with many rows may go far, and one with few may go fast.
    Who is not in this step counts with its last update. Fewer than three clients have no median that one of them could
    not move. Who points against the others of its cluster, or sends what another sends, is named.

    Args:
        changes: client -> what its update changed, of all that are used so far.
        clusters: the clients whose updates are averaged together, those of ``before`` too.
        bounds: the rules.
        before: client -> its last update of this kind, of those that are not in ``changes``.
        directions: whether the clients of a cluster are expected to go one way.
    """
    found = Findings()
    known: dict[ClientId, Change | Seen] = {**(before or {}), **changes}
    if bounds.norm is not None and len(known) >= LEAST:
        for members in clusters:
            for client in members:
                if client in changes and (why := _too_long(client, members, known, bounds.norm)):
                    found.refused[client] = why
    for members in clusters if directions else ():
        used = [c for c in members if c in changes and c not in found.refused and changes[c].length]
        if len(used) >= LEAST:
            for client, cosine in _against(used, changes):
                found.name(client, f"points against the others of its cluster, cosine {cosine:.2f}")
    for one, other in combinations(sorted(changes), 2) if bounds.copies else ():
        a, b = changes[one], changes[other]
        # Lengths first: whole tensors are compared where they agree alone.
        alike = abs(a.length - b.length) <= SAME * a.length and _shapes(a) == _shapes(b)
        if alike and a.length and _apart(a.tensors, {name: b.tensors[name] for name in b.start}) <= SAME * a.length:
            found.name(one, f"sent what client {other!r} sent")
            found.name(other, f"sent what client {one!r} sent")
    return found


def _too_long(
    client: ClientId, members: Sequence[ClientId], known: Mapping[ClientId, Change | Seen], most: float
) -> str:
    own = known[client]
    groups = [list(known.values()), *([[known[c] for c in members]] if len(members) >= LEAST else [])]
    usual = max(median(change.length for change in group) for group in groups)
    pace = max(median(change.length / max(1, change.steps) for change in group) for group in groups)
    if not usual or own.length <= most * usual or own.length / max(1, own.steps) <= most * pace:
        return ""
    return (
        f"its update is {own.length / usual:.3g} times as long as the median of its cluster, {own.length:.3g} against "
        f"{usual:.3g} (bounds.norm allows {most:g} times)"
    )


def _against(members: Sequence[ClientId], changes: Mapping[ClientId, Change]) -> Iterator[tuple[ClientId, float]]:
    """Those whose direction is against the sum of the others' directions."""
    first = changes[members[0]]
    if any(_shapes(changes[client]) != _shapes(first) for client in members):
        return
    along, squares = dict.fromkeys(members, 0.0), dict.fromkeys(members, 0.0)
    for name in sorted(first.start):
        units = {client: changes[client].of(name) / changes[client].length for client in members}
        whole = torch.stack([*units.values()]).sum(0)
        for client, unit in units.items():
            along[client] += float(((whole - unit) * unit).sum())
            squares[client] += float((whole - unit).square().sum())
    for client in members:
        if squares[client] and (cosine := along[client] / math.sqrt(squares[client])) < AGAINST:
            yield client, cosine


def _shapes(change: Change) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in change.start.items()}


def _others_sent(task: ClientTask, update: ClientUpdate) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What a client was sent beside what it trained, under the names of its upload."""
    model, own = task.model, task.model.spec.own
    experts = {name: TensorName.parse(name) for name in task.upload}
    for expert in range(model.spec.num_experts):
        renamed = {n: str(p._replace(expert=expert)) for n, p in experts.items() if p.expert == own and expert != own}
        if renamed and all(other in model.tensors for other in renamed.values()):
            yield f"expert {expert}", {name: model.tensors[other] for name, other in renamed.items()}
    for place, candidate in enumerate(model.candidates):
        if not task.halves and place != update.choice and candidate.keys() & task.upload:
            yield f"candidate {place}", {name: candidate[name] for name in candidate.keys() & task.upload}


def _apart(one: Tensors, other: Tensors) -> float:
    """The distance of two states, over the names of the second."""
    return math.sqrt(
        sum(float((one[name].double() - tensor.double()).square().sum()) for name, tensor in other.items())
    )
