"""HetLoRA: adapters of unequal ranks, padded with zeros and weighted by their norms; clients prune their own rank.

Cho, Liu, Xu, Fahrezi, Joshi: Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models. EMNLP 2024.
https://arxiv.org/abs/2401.06432
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from fedlease.core.aggregate import weighted_mean
from fedlease.core.codec import serialisable
from fedlease.core.local_term import LocalTerm
from fedlease.core.low_rank import first_ranks, padded, product_norm, tail_norm
from fedlease.core.ranks import Ranks
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate
from fedlease.methods.base import CommonState, Terms, by_client
from fedlease.methods.fedit import FedIT

__all__ = ["HetLoRA", "HetLoRAState", "build"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class HetLoRAState(CommonState):
    """State of a HetLoRA run; ``adapter`` has the largest rank.

    Attributes:
        pruned: client -> the rank to which it has been pruned.
    """

    pruned: Mapping[ClientId, int] = field(default_factory=dict)


@dataclass(frozen=True)
class HetLoRA(FedIT):
    """Parameters of HetLoRA: those of FedIT, except that clients are weighted by the norms of their updates.

    Attributes:
        ranks: ranks of the clients at the start; None: all have the common rank.
        gamma: in (0, 1]; directions after the first gamma r are a client's tail, which is pruned in the first round in
            which training makes it smaller. 1 never prunes; with equal ranks, that is FedIT weighted by norms.
        penalty: lambda, weight of the tail's norm in the local loss, at least 0.
    """

    ranks: Ranks | None = None
    gamma: float = 0.99
    penalty: float = 0.01

    averaged: ClassVar[tuple[str, ...]] = ("adapter",)

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> HetLoRAState:
        """Clients start from the first r_i rows of the common A."""
        return HetLoRAState(round=1, adapter=adapter, clients=dict(clients))

    def task(self, state: CommonState, client: ClientId) -> ClientTask | None:
        """FedIT's task at the client's rank, with the penalty on its tail."""
        task = super().task(state, client)
        if task is None or not self.penalty:
            return task
        rank = task.model.spec.r
        kept = self._kept(rank)
        return replace(task, term=LocalTerm(tail=self.penalty, kept=kept)) if kept < rank else task

    def combined(self, state: CommonState, updates: Sequence[ClientUpdate]) -> CommonState:
        """Prunes clients whose tail has become smaller, pads with zeros, and averages with norms as weights."""
        assert isinstance(state, HetLoRAState)
        pruned, states, norms = dict(state.pruned), [], []
        for update in by_client(updates):
            model = replace(self.model(state, update.client), tensors=update.tensors)
            kept = self._kept(model.spec.r)
            before = tail_norm(self.model(state, update.client).tensors, kept)
            if kept < model.spec.r and tail_norm(update.tensors, kept) < before:
                model, pruned[update.client] = first_ranks(model, kept), kept
            states.append(padded(model.tensors, state.adapter.spec.r))
            norms.append(product_norm(model.tensors))
        mean = weighted_mean(states, norms if any(norms) else [1.0] * len(norms))
        adapter = replace(state.adapter, tensors={**state.adapter.tensors, **mean})
        return replace(state, adapter=adapter, pruned=dict(sorted(pruned.items())))

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The shared adapter, cut to the client's rank."""
        assert isinstance(state, HetLoRAState)
        full = state.adapter.spec.r
        rank = state.pruned.get(client, full if self.ranks is None else self.ranks.of(client))
        return first_ranks(state.adapter, rank)

    def _kept(self, rank: int) -> int:
        """Number of directions before the tail, at least 1."""
        return max(1, int(self.gamma * rank))


def build(terms: Terms, *, gamma: float = 0.99, penalty: float = 0.01) -> HetLoRA:
    """HetLoRA from the settings of ``hetlora.*``."""
    return HetLoRA(terms.budget, ranks=terms.ranks, gamma=gamma, penalty=penalty)
