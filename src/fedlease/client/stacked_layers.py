"""Layers of a base model that computes rows of several clients at once, each client with its own tensors.

A batch has equally many rows of each of K clients, client after client, so that clients are the batch dimension of
every matrix product and no loop over clients is needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedlease.core.experts import (
    CORE_SHAPES,
    ROUTER_ROWS,
    Rule,
    add_differences,
    add_experts,
    directions,
    linear,
    mix,
    project,
    through,
)
from fedlease.errors import ModelError

__all__ = ["Plan", "RowsNotFirstError", "StackedHead", "StackedLinear"]


PLAIN = Rule("none", 1, 1.0)


class RowsNotFirstError(ModelError):
    """An adapted module does not receive rows in its first dimension, so that clients cannot be separated."""


@dataclass
class Plan:
    """Description of the current batch, shared by all layers and heads of a model.

    Attributes:
        rule: rule by which experts are combined.
        weights: scaled weights of the experts, (M,), or per row, (K, rows of each, M), or per client, (K, 1, M); None
            if a router decides.
        dropout: probability of dropout on the input of A.
        clients: number of clients in the batch.
        rows: number of rows in the batch, of all clients.
        own: per client, rows and tokens per row that its batch would have alone.
        left: whether rows are padded on the left.
        draws: every client's generator for dropout; empty if one generator draws for all.
        step: number of batches so far.
    """

    rule: Rule = PLAIN
    weights: Tensor | None = None
    dropout: float = 0.0
    clients: int = 0
    rows: int = 0
    own: Sequence[tuple[int, int]] = ()
    left: bool = False
    draws: Sequence[torch.Generator] = ()
    step: int = 0

    def kept(self, x: Tensor) -> Tensor:
        """Dropout factors for x, (rows, tokens, in); every client draws those that it would draw alone."""
        factors = torch.ones(self.clients, self.rows // self.clients, *x.shape[1:])
        for place, draw, (rows, tokens) in zip(factors, self.draws[: self.clients], self.own, strict=True):
            inside = slice(-tokens, None) if self.left else slice(tokens)
            drawn = torch.empty(rows, tokens, *x.shape[2:]).bernoulli_(1 - self.dropout, generator=draw)
            place[:rows, inside] = drawn.div_(1 - self.dropout)
        return factors.flatten(0, 1).to(x)


class StackedLinear(nn.Module):
    """y = W0 x + sum over experts e of w_e B_e A_e x, with A, B and router of each row's client.

    Args:
        base_layer: the frozen linear module.
        name: its dotted path, for messages.
        plan: of the current batch.

    Attributes:
        a: A of every expert, M times (K, r, in).
        b: B of every expert, M times (K, out, r).
        router: G of all clients, with K as first dimension: a router, (K, slots, in), a scalar, (K, 1), a core between
            B and A, or differences to the frozen weights, (K, k); None without G.
    """

    def __init__(self, base_layer: nn.Module, name: str, plan: Plan) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.name, self.plan = name, plan
        self.a: list[Tensor] = []
        self.b: list[Tensor] = []
        self.router: Tensor | None = None
        self._kept: tuple[int, Tensor] | None = None

    def clear(self) -> None:
        """Drops all tensors."""
        self.a, self.b, self.router, self._kept = [], [], None, None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(rows, tokens, in) -> (rows, tokens, out).

        Raises:
            RowsNotFirstError: the first dimension of x is not that of the rows.
        """
        result: Tensor = self.base_layer(x, *args, **kwargs)
        plan = self.plan
        if x.dim() < 2 or x.shape[0] != plan.rows:
            raise RowsNotFirstError(
                f"model: {self.name} receives {tuple(x.shape)} for {plan.rows} rows; clients can be stacked only "
                "where rows come first"
            )
        if plan.dropout or not torch.is_autocast_enabled(x.device.type):  # autocast would convert it back
            x = x.to(self.b[0].dtype)
        dropped = None
        if self.training and plan.dropout:
            kept = x * self._factors(x) if plan.draws else F.dropout(x, plan.dropout)
            dropped = kept.reshape(plan.clients, -1, x.shape[-1])
        tokens = x.reshape(plan.clients, -1, x.shape[-1])
        seen = tokens if dropped is None else dropped
        a = _joined(self.a, 1)
        b = _joined(self.b, 2)
        if plan.rule.mixer == "diagonal":
            a, b = directions(a, b)
        if plan.weights is None and plan.rule.mixer in ROUTER_ROWS:
            assert self.router is not None
            stack = torch.cat([*self.a, self.router], 1)
            hidden, logits = project(tokens, stack, self.router.shape[1], dropped)
            weights = mix(logits, plan.rule, 0) * plan.rule.scaling  # (K, rows/K tokens, M)
        else:
            hidden = linear(seen, a)
            if plan.rule.mixer in CORE_SHAPES:
                assert self.router is not None
                hidden = through(hidden, self.router, plan.rule.mixer)
            if plan.weights is None:
                assert self.router is not None  # the mixer ``scalar``
                weights = mix(self.router, plan.rule, 0).unsqueeze(1) * plan.rule.scaling  # (K, 1, M)
            elif plan.weights.dim() == 1:
                weights = plan.weights
            else:
                weights = plan.weights.repeat_interleave(tokens.shape[1] // plan.weights.shape[1], 1)
        flat = result.reshape(plan.clients, -1, result.shape[-1])
        flat = add_experts(flat, hidden, weights, b)
        if plan.rule.mixer == "sparse":
            assert self.router is not None
            flat = add_differences(flat, seen, self.router, plan.rule.places)
        return flat.view_as(result)

    def _factors(self, x: Tensor) -> Tensor:
        # Drawn once per batch, since gradient checkpointing computes a layer again with the same dropout.
        if self._kept is None or self._kept[0] != self.plan.step:
            self._kept = self.plan.step, self.plan.kept(x)
        return self._kept[1]


def _joined(tensors: Sequence[Tensor], side: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), side)


class StackedHead(nn.Module):
    """Replaces a head module and applies every client's own values to its rows.

    Args:
        plan: of the current batch.

    Attributes:
        tensors: parameter path -> values of every client, (K, ...).
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.tensors: Mapping[str, Tensor] = {}
        self._module: list[nn.Module] = []

    def use(self, module: nn.Module) -> None:
        """Sets the module that does the arithmetic, sized for the most labels; its own values are not used."""
        self._module = [module]  # in a list, so that its parameters are not this module's

    def forward(self, features: Tensor, **kwargs: Any) -> Tensor:
        """(rows, ...) -> (rows, ...)."""
        (module,) = self._module
        module.train(self.training)
        if features.shape[0] != self.plan.rows:
            raise RowsNotFirstError(
                f"model: its head receives {tuple(features.shape)} for {self.plan.rows} rows; clients can be stacked "
                "only where rows come first"
            )

        def one(tensors: dict[str, Tensor], own: Tensor) -> Tensor:
            return functional_call(module, tensors, (own,), kwargs)  # type: ignore[no-any-return]

        by_client = features.unflatten(0, (self.plan.clients, -1))
        found: Tensor = vmap(one, randomness="different")(dict(self.tensors), by_client)
        return found.flatten(0, 1)
