"""Comparison of updates with earlier ones, for replays, and with those of other clients, for length and direction."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median

import torch
from torch import Tensor

from fedlease.core.choices import Against
from fedlease.core.screening import SAME, Bounds, Change, apart
from fedlease.core.serialisable import serialisable
from fedlease.core.types import ClientId, TensorName, Tensors

__all__ = ["Findings", "Seen", "compare", "replayed", "sample"]

LEAST = 3
"""Fewest updates for a median, so that one of them cannot move it beyond the others."""

AGAINST = -0.25
"""Cosine of a long warm-up with the sum of agreeing others below which it points against them."""

AGREE = 0.1
"""Mean cosine between updates above which they agree. Around a common optimum, honest changes cancel out, and each
points against the sum of all others; direction then says nothing."""

HALFWAY = -0.5
"""Relative cosine below which an update of a round points against its cluster: its cosine with the sum of the others,
divided by the value expected if it agreed with them as they do with each other. Honest updates are near 1, reversed
ones near -1. Plain cosines are small where rows differ, and fall from round to round."""

LONG = 2.0
"""Length of a warm-up, in medians, both in total and per step, above which its direction is judged. By direction alone,
17 of 584 honest warm-ups would be named: tasks may contradict each other."""

SAMPLED = 8
"""Values of every tensor of an upload that are remembered, to recognise the upload if it is sent again."""


@serialisable
@dataclass(frozen=True)
class Seen:
    """A record of an update that was used, or of a warm-up that was refused for its direction.

    Attributes:
        warmup: whether it was a warm-up.
        length: of its change.
        steps: optimiser steps of the task.
        sample: see :func:`sample`.
        turned: whether it was refused for its direction.
    """

    warmup: bool
    length: float
    steps: int
    sample: Tensor
    turned: bool = False


@dataclass
class Findings:
    """Findings of a comparison of updates, one sentence each.

    Attributes:
        refused: client -> the reason why its update must not be used.
        named: client -> suspicious properties of an update that is used.
        turned: clients whose updates are refused for their direction.
    """

    refused: dict[ClientId, str] = field(default_factory=dict)
    named: dict[ClientId, list[str]] = field(default_factory=dict)
    turned: set[ClientId] = field(default_factory=set)

    def name(self, client: ClientId, what: str) -> None:
        """Adds a suspicious property of an update that is used."""
        self.named.setdefault(client, []).append(what)

    def against(self, client: ClientId, what: str, rule: Against) -> None:
        """Refuses an update for its direction, or names it, as ``bounds.against`` says."""
        if rule == "refuse":
            self.refused[client] = f"its {what} (bounds.against)"
            self.turned.add(client)
        else:
            self.name(client, f"its {what}")


def sample(tensors: Tensors) -> Tensor:
    """A few values of every tensor of an upload, sorted by name, (at most tensors x SAMPLED,), to be remembered."""
    picked = [tensors[name].detach().flatten().float().cpu() for name in sorted(tensors)]
    return torch.cat([flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED] for flat in picked] or [torch.empty(0)])


def replayed(client: ClientId, now: Tensor, start: Tensor, seen: Mapping[ClientId, Mapping[int, Seen]]) -> str:
    """The reason why an upload repeats an earlier one; empty if it does not.

    Args:
        client: that sent it.
        now: sample of the upload.
        start: sample of the tensors before training.
        seen: client -> step -> record of the update that was used.
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
    warmups: Mapping[ClientId, Change] | None = None,
    watched: Collection[ClientId] = frozenset(),
) -> Findings:
    """Compares the updates of one step.

    Length: an update is refused if it is longer than ``bounds.norm`` times the median of its cluster and the median of
    all clients, both in total and per optimiser step, since a client with many rows may go far and one with few may go
    fast. Clients without an update in this step count with their last one. Fewer than three clients are not compared,
    as one of them could move the median. A random walk of the client's own steps, lr sqrt(steps x values), is never
    too long: where most clients have fitted their few rows, the median is near 0, and a client that still learns must
    not be refused.

    Direction: an update that points against the others of its cluster is named, or refused by ``bounds.against``.
    Before there are clusters, this holds only for warm-ups that are also long.

    Copies: two clients that send the same are named.

    Args:
        changes: client -> change by its update, for all updates that are used so far.
        clusters: clients whose updates are averaged together, including those of ``before``.
        bounds: the rules.
        before: client -> its last update of this kind, for clients that are not in ``changes``.
        warmups: client -> change by its warm-up in an earlier step; None if ``changes`` are not warm-ups, whose
            directions need not agree.
        watched: clients whose update of an earlier round was refused for its direction; their updates are used again
            once they point in the direction of the others at all.
    """
    found = Findings()
    known: dict[ClientId, Change | Seen] = {**(before or {}), **changes}
    if bounds.norm is not None and len(known) >= LEAST:
        for members in clusters:
            groups = [[*known.values()], *([[known[c] for c in members]] if len(members) >= LEAST else [])]
            for client in members:
                if client in changes and (why := _too_long(changes[client], groups, bounds.norm, bounds.lr)):
                    found.refused[client] = why
    for members in clusters:
        used = [c for c in members if c in changes and c not in found.refused and changes[c].length]
        if warmups is not None:
            beside = {client: change for client, change in warmups.items() if change.length}
            for client, times, against in _flipped(
                used, {**beside, **{c: changes[c] for c in used}}, [*known.values()]
            ):
                found.against(
                    client,
                    f"warm-up is {times:.3g} times as long as the median and points against {against} that agree",
                    bounds.against,
                )
        elif len(used) >= LEAST:
            for client, cosine in _against(used, changes, watched):
                found.against(
                    client, f"update points against the others of its cluster, cosine {cosine:.2f}", bounds.against
                )
    for one, other in combinations(sorted(changes), 2) if bounds.copies else ():
        a, b = changes[one], changes[other]
        # Whole tensors are compared only where the lengths agree.
        alike = abs(a.length - b.length) <= SAME * a.length and _shapes(a) == _shapes(b)
        if alike and a.length and apart(a.tensors, {name: b.tensors[name] for name in b.start}) <= SAME * a.length:
            found.name(one, f"sent what client {other!r} sent")
            found.name(other, f"sent what client {one!r} sent")
    return found


def _too_long(own: Change, groups: Sequence[Sequence[Change | Seen]], most: float, lr: float) -> str:
    usual = max(median(change.length for change in group) for group in groups)
    pace = max(median(map(_pace, group)) for group in groups)
    walk = lr * math.sqrt(own.steps * sum(tensor.numel() for tensor in own.start.values()))
    if not usual or own.length <= most * max(usual, walk) or _pace(own) <= most * pace:
        return ""
    return (
        f"its update is {own.length / usual:.3g} times as long as the median of its cluster, {own.length:.3g} against "
        f"{usual:.3g} (bounds.norm allows {most:g} times)"
    )


def _against(
    members: Sequence[ClientId], changes: Mapping[ClientId, Change], watched: Collection[ClientId]
) -> Iterator[tuple[ClientId, float]]:
    """Yields clients whose update points against the sum of the others, if these agree, with the cosine."""
    cosines = _cosines(members, changes, {client: changes[client].length for client in members})
    count = len(cosines)
    for place, client in enumerate(members[:count]):
        others = [other for other in range(count) if other != place]
        among = cosines[others][:, others]
        agreement = float(among.sum() - among.trace()) / max(1, len(others) * (len(others) - 1))
        if agreement <= (0 if client in watched else AGREE):
            continue
        length = float(among.sum().sqrt())
        cosine = float(cosines[place, others].sum()) / length
        if cosine < (0 if client in watched else HALFWAY * len(others) * agreement / length):
            yield client, cosine


def _flipped(
    asked: Sequence[ClientId], changes: Mapping[ClientId, Change], known: Sequence[Change | Seen]
) -> Iterator[tuple[ClientId, float, int]]:
    """Yields clients whose long warm-up points against others that agree, with its length in medians and their number.

    The opposed clients must be at least two, and more than the clients that point the same way, including itself.
    """
    if len(known) < LEAST:
        return
    usual = median(change.length for change in known)
    pace = median(map(_pace, known))
    long = [c for c in asked if changes[c].length > LONG * usual and _pace(changes[c]) > LONG * pace]
    if not long:
        return
    members = [*asked, *(client for client in changes if client not in asked)]
    # Only B is compared: it starts at 0 and moves in one direction, while much of the change of A is random.
    b = [name for name in sorted(changes[members[0]].start) if TensorName.parse(name).kind == "B"]
    lengths = {c: math.sqrt(sum(float(changes[c].of(n).square().sum()) for n in b)) or 1.0 for c in members}
    cosines = _cosines(members, changes, lengths, b)
    for client in long if len(cosines) else ():
        row = cosines[members.index(client)]
        against, along = (torch.nonzero(side).flatten() for side in (row < -AGREE, row > AGREE))
        among = cosines[against][:, against]
        agreement = float(among.sum() - among.trace()) / max(1, len(against) * (len(against) - 1))
        outnumbered = len(against) > max(1, len(along)) and agreement > AGREE  # ``along`` has the client itself
        if outnumbered and float(row[against].sum() / among.sum().sqrt()) < AGAINST:
            yield client, changes[client].length / usual, len(against)


def _cosines(
    members: Sequence[ClientId],
    changes: Mapping[ClientId, Change],
    lengths: Mapping[ClientId, float],
    names: Sequence[str] | None = None,
) -> Tensor:
    """Cosines of all pairs over the named tensors, or all tensors; (0, 0) if the clients' shapes differ."""
    first, count = changes[members[0]], len(members)
    if any(_shapes(changes[client]) != _shapes(first) for client in members):
        return torch.zeros(0, 0, dtype=torch.float64)
    cosines = torch.zeros(count, count, dtype=torch.float64)
    for name in sorted(first.start) if names is None else names:
        units = torch.stack([changes[client].of(name).flatten() / lengths[client] for client in members])
        cosines.addmm_(units, units.T)
    return cosines


def _pace(change: Change | Seen) -> float:
    return change.length / max(1, change.steps)


def _shapes(change: Change) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in change.start.items()}
