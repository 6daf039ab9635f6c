"""Placement of late clients in groups made by corrected similarities: on the same scale, by the same rule."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedlease.core.aggregate import clusters
from fedlease.core.choices import Signal
from fedlease.core.codec import serialisable
from fedlease.core.distances import cosines_by_row, product_lengths
from fedlease.core.low_rank import truncate
from fedlease.core.merging_fit import Fit
from fedlease.core.merging_many import Beside, by_module, joined
from fedlease.core.placement import Placement
from fedlease.core.reliability import between_clients, chance, of_one_client
from fedlease.core.tensor_names import TensorName, Tensors, second_half
from fedlease.core.types import Allocation, ClientId

__all__ = ["GroupDirections", "group_directions"]

MEMBERS = 48
"""Most clients that form the direction of a group: the most reliable ones."""

ANYTHING = np.array([0.5]), np.array([0.5])
"""An unknown reliability, and its error."""

KEPT = 2
"""Singular directions that a group keeps, in multiples of the adapter's rank; 2 keeps all of one client's halves."""


@serialisable
@dataclass(frozen=True)
class GroupDirections:
    """What the clients of each group have learnt in common, from warm-ups on two halves of their rows.

    With u_jh the direction of client j's half h in a module and s_j^2 its reliability,

        m_c = sum over j, h of s_j u_jh / (2 sum over j of s_j^2)

    For a client of that task with the reliability s^2, u . m_c is then s, however many rows the clients have; for a
    client whose task has the corrected similarity c with it, u . m_c is c s. The sums run over the clients that have
    learnt their task.

    Attributes:
        num_experts: M.
        experts: the K experts with a client that has learnt its task, ascending.
        b, a: module -> the factors of m_c for each of these experts, (K, p, k) and (K, k, q); p is out and
            q is in where products B A are compared.
        common: g, the most that unlike tasks have in common.
        signal: the matrices that are compared.
        columns: number of leading columns of every B that are compared, the smallest rank of a client; None: all.
        rested: whether A and heads kept their initial values in the warm-ups.
    """

    num_experts: int
    experts: tuple[int, ...]
    b: Tensors
    a: Tensors
    common: float
    signal: Signal
    columns: int | None = None
    rested: bool = False

    def chosen(self, experts: Sequence[int]) -> "GroupDirections":
        """The directions of some experts, renumbered in the given order."""
        rows = {expert: row for row, expert in enumerate(self.experts)}
        kept = [rows[expert] for expert in experts if expert in rows]
        b, a = ({module: t[kept] for module, t in side.items()} for side in (self.b, self.a))
        known = tuple(number for number, expert in enumerate(experts) if expert in rows)
        return replace(self, num_experts=len(experts), experts=known, b=b, a=a)

    def place(self, tensors: Tensors) -> Placement:
        """Places one client by its warm-up, as :func:`fedlease.core.merging.merge` decides.

        The reliability of a single adapter, without halves, is unknown: it must have more in common with a group than
        clients of another task can. Without any group that has learnt its task, a client counts as unlike all experts
        if there are several, and belongs to the only expert otherwise.

        Args:
            tensors: A and B of its halves, numbered as experts 0 and 1; or A and B of a single adapter.

        Raises:
            ValueError: the modules or shapes are not those of the run.
        """
        if not self.experts:
            unknown = (1.0,) * self.num_experts
            nothing = (None,) * self.num_experts
            return Placement(0, unknown, 0.0, self.num_experts > 1, nothing, nothing, learnt=False)
        beside = self._beside(tensors)
        count = len(self.experts)
        (found,) = joined(beside, Fit(0.0, np.ones(count), self.common), np.arange(count))
        s = math.sqrt(found.reliability)
        similarities: list[float | None] = [None] * self.num_experts
        errors = [*similarities]
        for place, expert in enumerate(self.experts):
            similarities[expert] = float(beside.cross[0, place]) / s
            errors[expert] = float(beside.cross_error[0, place]) / s
        distances = [1.0 if c is None else min(max(1 - c, 0.0), 2.0) for c in similarities]
        nearest = self.experts[int(beside.cross.argmax()) if found.group < 0 else found.group]
        others = [d for expert, d in enumerate(distances) if expert != nearest]
        return Placement(
            nearest,
            tuple(distances),
            min(others) - distances[nearest] if others else math.inf,
            found.group < 0,
            tuple(similarities),
            tuple(errors),
            found.reliability,
            learnt=not found.unsure,
        )

    def _beside(self, tensors: Tensors) -> Beside:
        """Similarities of one client with the K groups, and of its halves with each other."""
        modules = {TensorName.parse(name).module for name in tensors}
        if modules != self.b.keys():
            raise ValueError(f"halves must hold the modules of the run, received {sorted(modules)}")
        halves = any(TensorName.parse(name).expert == 1 for name in tensors)
        uploads = {"": tensors if halves else {**tensors, **second_half(tensors)}}
        cross, own = [], []
        for module, (b, a) in zip(sorted(modules), _halves(uploads, self.signal, [""], self.columns), strict=True):
            group_b, group_a = self.b[module].double(), self.a[module].double()
            if (b.shape[1], a.shape[2]) != (group_b.shape[1], group_a.shape[2]):
                raise ValueError(f"{module}: halves have another shape than those of the run")
            inner = torch.einsum("hpr,kps->hkrs", b, group_b) * torch.einsum("hrq,ksq->hkrs", a, group_a)
            size = product_lengths(b, a)
            cross.append((inner.sum((2, 3)) / size.where(size > 0, 1).unsqueeze(1)).mean(0, keepdim=True))  # (1, K)
            own.append(cosines_by_row(b[:1], a[:1], b[1:], a[1:]))  # (1,)
        noise = chance(uploads[""]) if self.rested else None
        own_mean, own_error = of_one_client(own, noise) if halves else ANYTHING
        return Beside(own_mean, own_error, *between_clients(cross, noise), noise)


def group_directions(
    halves: Mapping[ClientId, Tensors],
    allocation: Allocation,
    signal: Signal,
    columns: int | None = None,
    *,
    rested: bool = False,
) -> GroupDirections:
    """The directions that the groups of an allocation have learnt.

    Args:
        halves: client -> A and B of its halves, numbered as experts 0 and 1.
        allocation: made by the corrected similarities of these halves.
        signal: the matrices that were compared.
        columns: see :class:`GroupDirections`.
        rested: see :class:`GroupDirections`.
    """
    learnt = {c: expert for c, expert in allocation.assignment.items() if c in halves and c not in allocation.unsure}
    b: dict[str, list[Tensor]] = {}
    a: dict[str, list[Tensor]] = {}
    groups = clusters(learnt, learnt)
    for members in groups.values():
        best = sorted(members, key=lambda client: (-allocation.reliability[client], client))[:MEMBERS]
        s = torch.tensor([allocation.reliability[client] for client in best], dtype=torch.float64).sqrt()
        weights = (s / (2 * s.square().sum())).repeat_interleave(2)  # (2 n,)
        modules = sorted({TensorName.parse(name).module for name in halves[best[0]]})
        for module, (of_b, of_a) in zip(modules, _halves(halves, signal, best, columns), strict=True):
            size = product_lengths(of_b, of_a)
            scaled = of_b * (weights / size.where(size > 0, 1)).view(-1, 1, 1)
            kept = min(KEPT * of_b.shape[2], of_b.shape[1], of_a.shape[2])
            pair = truncate(of_a.flatten(0, 1), scaled.transpose(0, 1).flatten(1), kept)
            a.setdefault(module, []).append(pair[0].float())
            b.setdefault(module, []).append(pair[1].float())
    stacked_b, stacked_a = ({module: torch.stack(each) for module, each in side.items()} for side in (b, a))
    experts, common = tuple(groups), allocation.common or 0.0
    return GroupDirections(allocation.num_experts, experts, stacked_b, stacked_a, common, signal, columns, rested)


def _halves(
    uploads: Mapping[ClientId, Tensors], signal: Signal, clients: Sequence[ClientId], columns: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Applies :func:`fedlease.core.merging_many.by_module` to the first columns of B and rows of A."""
    for b, a in by_module(uploads, signal, clients):
        yield (b[:, :, :columns], a[:, :columns]) if signal == "BA" else (b, a)
