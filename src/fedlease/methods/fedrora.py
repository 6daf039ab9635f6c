"""FedRoRA: a basis from the mean update, of which every client takes the directions that its own update uses most.

Wang, Bian, Zhang, Xu: Breaking the Structural Identity: Personalized Federated LoRA Fine-tuning under Rank
Heterogeneity. EMNLP 2026. https://github.com/lei-wang-link/FedRoRA
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedlease.core.aggregate import weighted_uploads
from fedlease.core.codec import serialisable
from fedlease.core.experts import directions
from fedlease.core.low_rank import singular
from fedlease.core.ranks import Ranks
from fedlease.core.residual import stacked
from fedlease.core.seeds import generator
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Stage, TensorName, Tensors
from fedlease.methods.base import CommonState, Terms
from fedlease.methods.fedit import PHASE, FedIT

__all__ = ["FedRoRA", "FedRoRAState", "build"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class FedRoRAState(CommonState):
    """State of a FedRoRA run.

    Attributes:
        seed: root seed, for the first directions of every client.
        basis: A, B and ``<module>/G``: the largest singular vectors of the last mean and their values; {} before round
            1 is over.
        updates: client -> its last upload.
    """

    seed: int
    basis: Tensors = field(default_factory=dict)
    updates: Mapping[ClientId, Tensors] = field(default_factory=dict)


@dataclass(frozen=True)
class FedRoRA(FedIT):
    """The update of a module is B S A, where columns of B and rows of A have length 1 and S is the client's diagonal.

    Attributes:
        ranks: ranks of the clients; None: all have the common rank.
        gain: ratio of the speeds at which S and the other tensors are trained, above 0. S / gain is trained, with alpha
            scaled by ``gain``.
    """

    ranks: Ranks | None = None
    gain: float = 100.0

    averaged: ClassVar[tuple[str, ...]] = ()

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> FedRoRAState:
        """The initial state, without a basis."""
        return FedRoRAState(round=1, adapter=adapter, clients=dict(clients), seed=seed)

    def task(self, state: CommonState, client: ClientId) -> ClientTask | None:
        """A task that trains and uploads A, B and the diagonal at the client's rank."""
        if state.round > self.last_round:
            return None
        model = self.model(state, client)
        names = model.names("ABG")
        return ClientTask(PHASE, state.round, model, (Stage(names, self.budget.epochs(state.round)),), upload=names)

    def combined(self, state: CommonState, updates: Sequence[ClientUpdate]) -> CommonState:
        """Makes a basis of the R largest singular vectors of the mean update."""
        assert isinstance(state, FedRoRAState)
        tensors, weights = weighted_uploads(updates, self.weights)
        mean, basis = stacked([_as_pair(each) for each in tensors], weights), dict[str, Tensor]()
        for module in state.adapter.spec.target_modules:
            a, b, g = _names(module)
            rows, values, columns = singular(mean[a], mean[b], state.adapter.spec.r)
            basis |= {a: rows.float().contiguous(), b: columns.float().contiguous(), g: values.float()}
        latest = {**state.updates, **{update.client: dict(update.tensors) for update in updates}}
        return replace(state, basis=basis, updates=dict(sorted(latest.items())))

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The r_i directions of the basis with the largest coefficients in the client's last update.

        A client that has not trained yet gets the r_i directions with the largest coefficients in the mean. Before
        there is a basis, or if it has fewer directions, directions are drawn at random.
        """
        assert isinstance(state, FedRoRAState)
        full = state.adapter.spec
        r = full.r if self.ranks is None else self.ranks.of(client)
        spec = replace(full, r=r, alpha=full.alpha / full.r * r * self.gain, mixer="diagonal")
        scale, own, tensors = spec.alpha / r, state.updates.get(client), dict[str, Tensor]()
        for module in full.target_modules:
            a, b, g = _names(module)
            rng = generator(state.seed, "fedrora", client, module)
            rows = torch.randn(r, state.adapter.tensors[a].shape[1], generator=rng)
            columns = torch.randn(state.adapter.tensors[b].shape[0], r, generator=rng)
            core = torch.full((r,), r**-0.5 / scale)
            if state.basis:
                place, values = _chosen(state.basis, own and _as_pair(own), module, r)
                core.zero_()
                rows[: len(place)], columns[:, : len(place)] = state.basis[a][place], state.basis[b][:, place]
                core[: len(place)] = values.float()
            rows, columns = directions(rows, columns)
            tensors |= {a: rows, b: columns.contiguous(), g: core}
        return ClientModel(spec, tensors)


def _chosen(basis: Tensors, own: Tensors | None, module: str, r: int) -> tuple[Tensor, Tensor]:
    """Ids of the r basis directions with the largest coefficients, sorted, and the coefficients.

    They are u_k^T (B S A) v_k of the client's own update, or the singular values of the mean if it has none.
    """
    a, b, g = _names(module)
    values = basis[g]
    if own is not None:
        values = ((basis[b].double().T @ own[b]) * (basis[a].double() @ own[a].T)).sum(1)
    place = values.abs().argsort(descending=True, stable=True)[:r].sort().values
    return place, values[place]


def _as_pair(tensors: Tensors) -> dict[str, Tensor]:
    """An upload as A and B of the same product, in float64."""
    pairs = dict[str, Tensor]()
    for module in sorted({TensorName.parse(name).module for name in tensors}):
        a, b, g = _names(module)
        rows, columns = directions(tensors[a].double(), tensors[b].double())
        pairs |= {a: rows, b: columns * tensors[g].double()}
    return pairs


def _names(module: str) -> tuple[str, str, str]:
    return str(TensorName(module, "A", 0)), str(TensorName(module, "B", 0)), str(TensorName(module, "G"))


def build(terms: Terms, *, gain: float = 100.0) -> FedRoRA:
    """FedRoRA from the settings of ``fedrora.*``."""
    return FedRoRA(terms.budget, terms.weights, ranks=terms.ranks, gain=gain)
