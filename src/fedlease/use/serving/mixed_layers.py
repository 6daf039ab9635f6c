"""Layers for batches with rows of several clients, and the plan that assigns experts, routers and heads to rows."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedlease.core.experts import ROUTER_ROWS, Rule, add_experts, linear, mix, router_logits
from fedlease.errors import ModelError

__all__ = ["MixedHead", "MixedLinear", "Plan", "Profile", "Routed"]


@dataclass(frozen=True)
class Profile:
    """The numbers of a client's experts, router and head; ``experts[e]`` is the number of its expert e."""

    rule: Rule
    own: int
    experts: tuple[int, ...]
    router: int
    head: int
    num_labels: int


@dataclass(frozen=True)
class Routed:
    """Neighbouring rows with one rule: g rows, with T tokens and M experts each."""

    rule: Rule
    rows: slice
    own: Tensor  # (g, 1)
    columns: Tensor  # (g, 1, M), places in the batch's experts
    routers: tuple[int, ...]  # distinct
    router_of_row: Tensor  # (g,), places in ``routers``


@dataclass
class Plan:
    """The client of each row of the current batch; every layer and head of one model reads the same plan."""

    size: int = 0
    experts: tuple[int, ...] = ()
    routed: list[Routed] = field(default_factory=list)
    heads: list[tuple[int, Tensor]] = field(default_factory=list)  # head, its rows


class MixedLinear(nn.Module):
    """y = W0 x + sum over experts u of w_u(row, token) B_u A_u x, with w zero outside the row's client's experts.

    Args:
        base_layer: the frozen linear module.
        name: its dotted path, for messages.
        plan: plan of the current batch.

    Attributes:
        tensors: lists by number: A (r, in) and B (out, r) of experts, and G (slots, in) of routers.
    """

    def __init__(self, base_layer: nn.Module, name: str, plan: Plan) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.name, self.plan = name, plan
        self.tensors: dict[str, list[Tensor]] = {"A": [], "B": [], "G": []}
        self._stacked: tuple[tuple[int, ...], Tensor, Tensor] | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(rows, ..., in) -> (rows, ..., out).

        Raises:
            ModelError: the first dimension is not that of rows.
        """
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if x.dim() < 2 or x.shape[0] != self.plan.size:
            raise ModelError(
                f"model: {self.name} receives {tuple(x.shape)} for {self.plan.size} rows; rows of several clients can "
                "be computed together only where rows come first"
            )
        a, b = self.stack(self.plan.experts)
        x = x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1)  # (rows, T, in)
        hidden = linear(x.to(a.dtype), a).flatten(0, 1)  # (rows T, U r)
        weights = self._weights(x).flatten(0, 1)  # (rows T, U)
        return add_experts(result.flatten(0, -2), hidden, weights, b).view_as(result)

    def stack(self, experts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Stacks A (U r, in) and B (out, U r) of experts; the last stack is reused if the experts are the same."""
        if self._stacked is None or self._stacked[0] != experts:
            a, b = ([self.tensors[kind][u] for u in experts] for kind in "AB")
            self._stacked = (experts, torch.cat(a), torch.cat(b, 1))
        return self._stacked[1:]

    def _weights(self, x: Tensor) -> Tensor:
        """Scaled weights, (rows, T, U) float32, of x as (rows, T, in)."""
        weights = torch.zeros(*x.shape[:2], len(self.plan.experts), device=x.device)
        for group in self.plan.routed:
            rule, target = group.rule, weights[group.rows]
            columns = group.columns.expand(-1, x.shape[1], -1)
            if rule.mixer in ("none", "sum"):
                target.scatter_add_(-1, columns, target.new_full(columns.shape, rule.scaling))
                continue
            # (g, slots, in); for the mixer "scalar" (g, 1), which is the logit itself
            routers = torch.stack([self.tensors["G"][g] for g in group.routers])[group.router_of_row]
            logits = router_logits(x[group.rows], routers) if rule.mixer in ROUTER_ROWS else routers.unsqueeze(1)
            found = mix(logits, rule, group.own) * rule.scaling
            # scatter_add_, since two experts of a client with the same content share a column
            target.scatter_add_(-1, columns, found.expand(columns.shape))
        return weights


class MixedHead(nn.Module):
    """Replaces a head module, and passes each row through its client's head according to the plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.heads = nn.ModuleList()

    def forward(self, features: Tensor) -> Tensor:
        """(rows, ...) -> (rows, ..., widest label list), shorter ones padded with -inf."""
        logits: list[Tensor] = [self.heads[head](features[rows]) for head, rows in self.plan.heads]
        widest = max(found.shape[-1] for found in logits)
        result = logits[0].new_empty((self.plan.size, *logits[0].shape[1:-1], widest))
        for (_, rows), found in zip(self.plan.heads, logits, strict=True):
            result[rows] = F.pad(found, (0, widest - found.shape[-1]), value=float("-inf"))
        return result
