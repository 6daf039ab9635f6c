"""Grouping of any number of clients: by all pairs if they are few, else through a core to which others are compared.

Up to :data:`ALL_PAIRS` clients, :func:`fedlease.core.merging.merge` decides from all pairs; its memory grows with the
square of their number, and its time faster. With more clients, it groups a core of :data:`CORE` clients. Every other
client joins the group of the core that fits its halves best, if that explains them better than being alone by the same
odds. Clients that fit no group are grouped in the next stage, in a core that also has clients of the groups found so
far. Clients without a group after :data:`STAGES` stages stay alone. The order in which clients enter a core depends
only on their ids.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlease.core.adapters import a_matrices, b_matrices, half_of
from fedlease.core.choices import Signal
from fedlease.core.distances import cosines_between, cosines_by_row
from fedlease.core.merging import ENOUGH, POSSIBLE, Merged, likeness, merge
from fedlease.core.merging_fit import STEPS, Fit, first_guess, fit, misfits, nearer, precisions
from fedlease.core.reliability import Floats, agreement, between_clients, chance, has_learnt, of_one_client
from fedlease.core.seeds import derive
from fedlease.core.types import ClientId, Tensors

__all__ = ["ALL_PAIRS", "Beside", "by_module", "group", "joined"]

Labels = NDArray[np.int_]

ALL_PAIRS = 256
"""Most clients that are compared in all pairs."""

CORE = 128
"""Clients of a core. It has a member of a group that makes up 1 % of all clients with a probability of 0.7."""

KNOWN = 48
"""Most clients of a core that come from groups found before."""

STAGES = 8
"""Most stages, each with its core."""

BATCH = 512
"""Clients that are compared with a core at a time."""

TRIED = 2
"""Number of groups, those with the highest mean similarity, to which a client is fitted."""


@dataclass(frozen=True)
class Beside:
    """Uncorrected similarities between the halves of n clients, and between them and the C clients of a core.

    Attributes:
        own, own_error: (n,), as in :class:`fedlease.core.reliability.Agreement`.
        cross, cross_error: with the core, (n, C).
    """

    own: Floats
    own_error: Floats
    cross: Floats
    cross_error: Floats
    noise: float | None = None


@dataclass
class _Found:
    """A client's group, the log odds for it, the client's reliability, and whether its group is unsure."""

    group: int
    evidence: float
    reliability: float
    unsure: bool


def group(uploads: Mapping[ClientId, Tensors], signal: Signal = "BA", *, rested: bool = False) -> Merged:
    """Groups clients by the similarity of what the halves of their rows have learnt.

    Args:
        uploads: client -> A and B of its halves, numbered as experts 0 and 1; at least one client.
        signal: the matrices that are compared, as for :func:`fedlease.core.reliability.agreement`.
        rested: whether A and heads kept their initial values.

    Raises:
        ValueError: as :func:`fedlease.core.reliability.agreement`.
    """
    noise = chance(next(iter(uploads.values()))) if rested else None
    if len(uploads) <= ALL_PAIRS:
        return merge(agreement(uploads, signal, noise))
    found: dict[ClientId, _Found] = {}
    waiting = sorted(uploads, key=lambda client: derive(0, "core", client))
    for _ in range(STAGES):
        known = _representatives(found)
        fresh, rest = waiting[: CORE - len(known)], waiting[CORE - len(known) :]
        core = sorted([*known, *fresh])
        fitted, labels = _group_core(uploads, signal, noise, core, known, found)
        waiting = []
        for begin in range(0, len(rest), BATCH):
            batch = rest[begin : begin + BATCH]
            beside = _beside(uploads, signal, noise, batch, core)
            for client, one in zip(batch, joined(beside, fitted, labels), strict=True):
                found[client] = one
                if one.group < 0:
                    waiting.append(client)
        if not waiting:
            break
    last = max(one.group for one in found.values())
    for place, client in enumerate(sorted(waiting)):
        found[client].group = last + 1 + place
    clients = sorted(found)
    return Merged(
        {client: found[client].group for client in clients},
        {client: found[client].evidence for client in clients},
        tuple(client for client in clients if found[client].unsure),
        np.array([found[client].reliability for client in clients]),
        None,
        None,
        fitted.common,
    )


def _representatives(found: Mapping[ClientId, _Found]) -> list[ClientId]:
    """The most reliable clients of the groups found so far, in turns over the groups, the largest groups first."""
    groups: dict[int, list[ClientId]] = {}
    for client in sorted(found, key=lambda client: (-found[client].reliability, client)):
        if found[client].group >= 0:
            groups.setdefault(found[client].group, []).append(client)
    turns = [
        (turn, -len(members), label, client)
        for label, members in groups.items()
        for turn, client in enumerate(members[:KNOWN])
    ]
    return [client for *_, client in sorted(turns)[:KNOWN]]


def _group_core(
    uploads: Mapping[ClientId, Tensors],
    signal: Signal,
    noise: float | None,
    core: Sequence[ClientId],
    known: Sequence[ClientId],
    found: dict[ClientId, _Found],
) -> tuple[Fit, Labels]:
    """Groups a core. Known clients keep their group; each new group takes the label of most known clients in it."""
    common = agreement({client: uploads[client] for client in core}, signal, noise)
    merged = merge(common)
    members: dict[int, list[ClientId]] = {}
    for client in core:
        members.setdefault(merged.groups[client], []).append(client)
    numbered = 1 + max((one.group for one in found.values()), default=-1)
    for clients in members.values():
        before = [found[client].group for client in clients if client in known]
        label = max(sorted(before), key=before.count) if before else numbered
        numbered += not before
        for client in (client for client in clients if client not in known):
            reliability = float(merged.reliability[core.index(client)])
            found[client] = _Found(label, merged.evidence[client], reliability, client in merged.unsure)
    labels = np.array([found[client].group for client in core])
    return fit(common, labels), labels


def joined(beside: Beside, fitted: Fit, labels: Labels) -> list[_Found]:
    """The group of each client that explains its similarities best, or -1 for none."""
    ids = np.unique(labels)
    member = (labels[:, None] == ids).astype(float)  # (C, G)
    similar = likeness(beside.cross, fitted.s, member)  # (n, G)
    tried = ids[np.argsort(-similar, axis=1, kind="stable")[:, :TRIED]]  # (n, at most TRIED)
    nobody = np.full(len(tried), -1)
    misfits, roots = zip(*(_misfit(beside, fitted, labels == to[:, None]) for to in (nobody, *tried.T)), strict=True)
    costs = np.array(misfits) - ENOUGH * (np.arange(len(misfits)) == 0)[:, None]  # as for a further group in merge
    best = costs.argmin(0)
    learnt = has_learnt(beside.own, beside.own_error, beside.noise)
    made = []
    for place, choice in enumerate(best.tolist()):
        others = np.delete(np.array(misfits)[:, place], choice)
        evidence = float(others.min() - misfits[choice][place])
        unsure = choice == 0 and (evidence < ENOUGH or not learnt[place])
        reliability = float(roots[choice][place] ** 2)
        made.append(_Found(int((nobody, *tried.T)[choice][place]), evidence, reliability, unsure))
    return made


def _misfit(beside: Beside, fitted: Fit, same: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Each client's misfit and s, as :func:`fedlease.core.merging_fit.fit` would give them with the core held fixed.

    Args:
        beside: of n clients.
        fitted: to the core.
        same: whether a client is in the group of a client of the core, (n, C).
    """
    core, common = fitted.s, fitted.common
    cross, variance = beside.cross, np.square(beside.cross_error)
    own_precision = 1 / np.square(beside.own_error)
    s = first_guess(beside.own, cross, same)
    for _ in range(STEPS):
        counts, most = precisions(cross, np.outer(s, core), variance, same, common)
        s = nearer(s, core, counts, most, cross, beside.own, own_precision)
    # With s near 0, a client would fit every group as well as none.
    between = misfits(cross, np.outer(np.maximum(s, POSSIBLE), core), variance, same, common).sum(1) / 2
    return between + own_precision * np.square(beside.own - np.square(s)) / 2, s


def _beside(
    uploads: Mapping[ClientId, Tensors],
    signal: Signal,
    noise: float | None,
    clients: Sequence[ClientId],
    core: Sequence[ClientId],
) -> Beside:
    """Similarities of clients with a core, see :func:`fedlease.core.reliability.agreement`."""
    cross, own = [], []
    sides = zip(by_module(uploads, signal, clients), by_module(uploads, signal, core), strict=True)
    for (b, a), (b_core, a_core) in sides:
        cosine = cosines_between(b, a, b_core, a_core)  # (2 n, 2 C)
        cross.append(cosine.view(len(clients), 2, len(core), 2).mean((1, 3)))
        own.append(cosines_by_row(b[::2], a[::2], b[1::2], a[1::2]))
    return Beside(*of_one_client(own, noise), *between_clients(cross, noise), noise)


def by_module(
    uploads: Mapping[ClientId, Tensors], signal: Signal, clients: Sequence[ClientId]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields B (2 n, out, r) and A (2 n, r, in), float64, of the halves of n clients, for every module, sorted.

    Where only A or only B is compared, it is yielded as B of the shape (2 n, values, 1), with an A of ones.
    """
    halves = [half_of(uploads[client], half) for client in clients for half in (0, 1)]
    b, a = ([kind(tensors) for tensors in halves] for kind in (b_matrices, a_matrices))
    for module in sorted(b[0]):
        if signal == "BA":
            yield _stacked(b, module), _stacked(a, module)
        else:
            flat = _stacked(b if signal == "B" else a, module).flatten(1).unsqueeze(2)
            yield flat, torch.ones(len(flat), 1, 1, dtype=torch.float64)


def _stacked(matrices: Sequence[Mapping[str, Tensor]], module: str) -> Tensor:
    return torch.stack([each[module] for each in matrices]).double()
