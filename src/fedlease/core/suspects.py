"""Updates side by side: what an update repeats of earlier ones, and how it stands among those of other clients."""

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
"""Updates that a median needs, so that one cannot move it beyond the others."""

AGAINST = -0.25
"""Cosine with the sum of others that agree below which a long warm-up points against them."""

AGREE = 0.1
"""Mean cosine of the others with each other above which they have a direction. Around a common optimum honest changes
add up to nothing, so that each points against the sum of all others."""

HALFWAY = -0.5
"""An update of a round points against its cluster when its cosine with the sum of the others is below so much of what
it would be if the update agreed with them as they do with each other. An honest one is about at 1, its opposite at -1:
cosines themselves are small where rows differ, and fall from round to round."""

LONG = 2.0
"""How many times as long as the median a warm-up is, by itself and per step, before its direction tells anything. By
direction alone 17 of 584 honest warm-ups would have been named: tasks may contradict each other."""

SAMPLED = 8
"""Values of every tensor that are remembered of an upload, by which it is recognised when it comes again."""


@serialisable
@dataclass(frozen=True)
class Seen:
    """A record of an update that was used, or of a warm-up that was refused for its direction.

    Attributes:
        warmup: whether it was a warm-up.
        length: of its change.
        steps: that the client had for it.
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
        refused: client -> why its update must not be used.
        named: client -> what is odd about an update that is used.
        turned: clients whose updates are refused for their direction.
    """

    refused: dict[ClientId, str] = field(default_factory=dict)
    named: dict[ClientId, list[str]] = field(default_factory=dict)
    turned: set[ClientId] = field(default_factory=set)

    def name(self, client: ClientId, what: str) -> None:
        """Adds an oddity."""
        self.named.setdefault(client, []).append(what)

    def against(self, client: ClientId, what: str, rule: Against) -> None:
        """Refuses an update for its direction, or names it, as ``bounds.against`` says."""
        if rule == "refuse":
            self.refused[client] = f"its {what} (bounds.against)"
            self.turned.add(client)
        else:
            self.name(client, f"its {what}")


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
    warmups: Mapping[ClientId, Change] | None = None,
    watched: Collection[ClientId] = frozenset(),
) -> Findings:
    """Compares the updates of one step.

    An update is refused when it is longer than ``bounds.norm`` times the median of its cluster and that of all
    clients, both by itself and per optimiser step: a client with many rows may go far, and one with few may go fast.
    What its own steps make without a direction is never too long, lr sqrt(steps x values): of clients that have fitted
    their few rows the median is next to nothing, and who still learns would be refused for it.
    Who is not in this step counts with its last update. Fewer than three clients have no median that one of them could
    not move. Who points against the others of its cluster, or sends what another sends, is named; before there are
    clusters, whose warm-up is long besides; ``bounds.against`` may refuse both.

    Args:
        changes: client -> what its update changed, of all that are used so far.
        clusters: the clients whose updates are averaged together, those of ``before`` too.
        bounds: the rules.
        before: client -> its last update of this kind, of those that are not in ``changes``.
        warmups: of warm-ups, which are not expected to go one way, those of earlier steps; None of other updates.
        watched: clients whose update of an earlier round was refused for its direction: theirs are used again once they
            point the way of the others at all.
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
        # Lengths first: whole tensors are compared where they agree alone.
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
    """Those whose direction is against the sum of the others' directions, where these agree with each other."""
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
    """Warm-ups that are long and go against others that agree: the client, how many times as long as the median, and
    how many others. There must be more of them than of those, itself among them, that go its way, and at least two."""
    if len(known) < LEAST:
        return
    usual = median(change.length for change in known)
    pace = median(map(_pace, known))
    long = [c for c in asked if changes[c].length > LONG * usual and _pace(changes[c]) > LONG * pace]
    if not long:
        return
    members = [*asked, *(client for client in changes if client not in asked)]
    # A has gone many ways by chance where B, which begins at 0, has gone one.
    b = [name for name in sorted(changes[members[0]].start) if TensorName.parse(name).kind == "B"]
    lengths = {c: math.sqrt(sum(float(changes[c].of(n).square().sum()) for n in b)) or 1.0 for c in members}
    cosines = _cosines(members, changes, lengths, b)
    for client in long if len(cosines) else ():
        row = cosines[members.index(client)]
        against, along = (torch.nonzero(side).flatten() for side in (row < -AGREE, row > AGREE))
        among = cosines[against][:, against]
        agreement = float(among.sum() - among.trace()) / max(1, len(against) * (len(against) - 1))
        outnumbered = len(against) > max(1, len(along)) and agreement > AGREE  # the client itself goes its way
        if outnumbered and float(row[against].sum() / among.sum().sqrt()) < AGAINST:
            yield client, changes[client].length / usual, len(against)


def _cosines(
    members: Sequence[ClientId],
    changes: Mapping[ClientId, Change],
    lengths: Mapping[ClientId, float],
    names: Sequence[str] | None = None,
) -> Tensor:
    """Cosines of all pairs over the tensors of some names, or all; (0, 0) where clients have different shapes."""
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
