"""Residuals: a low-rank update of the frozen weights that all clients share, on top of which an adapter is trained.

The update of a module is b a with a (k, in) and b (out, k), scaled by alpha / r like the adapter. A model holds it as
k / r frozen experts of rank r with weight 1 (the mixer ``sum``) beside the adapter. The weights of the base, which may
be quantised, are not changed, and an export is one adapter of rank k + r. Clients keep these experts; later updates are
appended, so that only new ones are sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fedlease.core.aggregate import shares
from fedlease.core.low_rank import truncate
from fedlease.core.types import ClientModel, TensorName, Tensors

__all__ = ["Residual", "extended", "lacking", "on_residual", "parted", "stacked"]

Residual = Mapping[str, Tensor]
"""``<module>/A/0`` (k, in) and ``<module>/B/0`` (out, k) in float32; {} adds nothing."""

_EXPERTS: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""b -> (rank, number of experts) -> its a and the experts, so that all clients share one copy, as long as b lives."""


def stacked(states: Sequence[Tensors], weights: Sequence[float]) -> dict[str, Tensor]:
    """The mean of products, sum over i of w_i B_i A_i, as the pair ``[A_1; ...; A_N]`` and ``[w_1 B_1 ... w_N B_N]``.

    Args:
        states: one mapping per client, A (r_i, in) and B (out, r_i) of a single adapter; ranks may differ.
        weights: one per state, with a positive sum; they are scaled to sum 1.

    Returns:
        A (sum of r_i, in) and B (out, sum of r_i) in float64, exact.
    """
    total = sum(weights)
    pair = {}
    for a, b in _pairs(states[0]):
        pair[a] = torch.cat([state[a].detach().double() for state in states])
        scaled = [state[b].detach().double() * (w / total) for state, w in zip(states, weights, strict=True)]
        pair[b] = torch.cat(scaled, 1)
    return pair


def lacking(states: Sequence[Tensors], weights: Sequence[float], mean: Tensors) -> dict[str, Tensor]:
    """The difference between the mean of products and the product of means: sum over i of w_i (B_i - B) (A_i - A).

    The weighted deviations of B sum to zero, which eliminates the last client's, so that the rank is (N - 1) r.

    Args:
        states: one mapping per client, A (r, in) and B (out, r) of a single adapter of one rank.
        weights: one finite, non-negative weight per state, with a positive sum.
        mean: A and B, the weighted means.

    Returns:
        A ((N - 1) r, in) and B (out, (N - 1) r) in float64; both are empty for one client.
    """
    scaled = shares(states, weights)
    pair = {}
    for a, b in _pairs(mean):
        last = states[-1][a].detach().double()
        pair[a] = torch.cat([mean[a].new_empty(0, mean[a].shape[1]).double(), *(s[a] - last for s in states[:-1])])
        deviations = [
            (state[b].detach().double() - mean[b].double()) * w
            for state, w in zip(states[:-1], scaled[:-1], strict=True)
        ]
        pair[b] = torch.cat([mean[b].new_empty(mean[b].shape[0], 0).double(), *deviations], 1)
    return pair


def parted(product: Mapping[str, Tensor], rank: int, energy: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Splits a product into its best pair of a given rank and a second pair with the remaining directions.

    Args:
        product: A (k, in) and B (out, k) in float64, as of :func:`stacked`; k is at least ``rank``.
        rank: of the first pair, at most in and out; it is balanced, see :func:`fedlease.core.low_rank.truncate`.
        energy: in (0, 1]; the largest singular values are kept until their squares sum to this share of all squares.

    Returns:
        The first pair, (rank, in) and (out, rank); and the other kept directions, of which there may be none.
    """
    major, rest = {}, {}
    for name_a, name_b in _pairs(product):
        a, b = product[name_a], product[name_b]
        a, b = truncate(a, b, min(len(a), a.shape[1], b.shape[0]))
        squares = (a.norm(dim=1) * b.norm(dim=0)).square().cumsum(0)
        counted = 1 + int((squares < energy * squares[-1]).sum())
        major[name_a], major[name_b] = a[:rank], b[:, :rank]
        rest[name_a], rest[name_b] = a[rank:counted], b[:, rank:counted]
    return major, rest


def extended(residual: Residual, more: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sum of two updates, as their concatenation.

    Where that has more than twice the rank that an (out, in) matrix can have, it is rewritten as a pair of full rank,
    without loss. Until then, clients that keep the first update need only the second. With the limit at twice the rank,
    rewriting is rare, and sending the rewritten pair costs at most what was saved since the last time.

    Args:
        residual: before.
        more: update to add, as of :func:`stacked` or :func:`lacking`.

    Returns:
        A and B in float32.
    """
    found = {}
    for name_a, name_b in _pairs(more):
        a, b = more[name_a], more[name_b]
        if residual:
            a, b = torch.cat([residual[name_a].double(), a]), torch.cat([residual[name_b].double(), b], 1)
        most = min(a.shape[1], b.shape[0])
        if a.shape[0] > 2 * most:
            a, b = truncate(a, b, most)
        found[name_a], found[name_b] = a.float(), b.float().contiguous()
    return found


def on_residual(model: ClientModel, residual: Residual) -> ClientModel:
    """A single adapter on top of a residual: expert 0 is the adapter, the frozen experts after it are the residual.

    Args:
        model: a single adapter of rank r; it is returned unchanged if there is no residual.
        residual: of the same modules; it is cut into experts of rank r, of which the last is padded with zeros.
    """
    r = model.spec.r
    ranks = {len(residual[a]) for a, _ in _pairs(residual)}
    count = -(-max(ranks, default=0) // r)
    if not count:
        return model
    frozen: dict[str, Tensor] = {}
    for name_a, name_b in _pairs(residual):
        module = TensorName.parse(name_a).module
        for expert, pair in enumerate(_experts(residual[name_a], residual[name_b], r, count), 1):
            frozen |= {str(TensorName(module, kind, expert)): one for kind, one in zip("AB", pair, strict=True)}
    spec = replace(model.spec, num_experts=1 + count, mixer="sum")
    return ClientModel(spec, {**model.tensors, **frozen}, kept=frozenset(frozen))


def _experts(a: Tensor, b: Tensor, r: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Cuts the pair into experts of rank r and pads the last ones with zeros."""
    cuts = _EXPERTS.setdefault(b, {})
    known = cuts.get((r, count))
    if known is None or known[0] is not a:
        room = count * r - len(a)
        rows, columns = F.pad(a, (0, 0, 0, room)).split(r), F.pad(b, (0, room)).split(r, 1)
        # Views would keep the whole padded pair in memory as long as any of its experts is kept.
        cut = [(row.clone(), column.contiguous().clone()) for row, column in zip(rows, columns, strict=True)]
        known = cuts[r, count] = a, cut
    experts: list[tuple[Tensor, Tensor]] = known[1]
    return experts


def _pairs(tensors: Tensors) -> list[tuple[str, str]]:
    """The names of A and of B of every module of a single adapter, sorted."""
    parsed = sorted(map(TensorName.parse, tensors))
    return [(str(name), str(name._replace(kind="B"))) for name in parsed if name[1:] == ("A", 0)]
