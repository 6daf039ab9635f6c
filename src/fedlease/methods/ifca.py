"""IFCA with LoRA: K candidate adapters, of which every client trains the one that fits its rows best.

Ghosh, Chung, Yin, Ramchandran: An Efficient Framework for Clustered Federated Learning. NeurIPS 2020.
https://arxiv.org/abs/2006.04088
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, get_args

import torch

from fedlease.core.aggregate import ClusterMeans, client_weights, mean_update
from fedlease.core.choices import CandidateStart, Weighting
from fedlease.core.codec import serialisable
from fedlease.core.seeds import generator
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Stage, Tensors
from fedlease.errors import RunFailedError
from fedlease.methods.base import CommonMethod, CommonState, Terms, by_client

__all__ = ["IFCA", "IFCAState", "build"]

ROUNDS = "candidates"


@serialisable
@dataclass(frozen=True, kw_only=True)
class IFCAState(CommonState):
    """State of an IFCA run.

    Attributes:
        seed: root seed, for the random partition that makes the candidates.
        candidates: A and B of the K candidates; () until the end of the warm-up.
        choices: client -> the candidate that it chose last.
    """

    seed: int
    candidates: tuple[Tensors, ...] = ()
    choices: Mapping[ClientId, int] = field(default_factory=dict)


@dataclass(frozen=True)
class IFCA(CommonMethod):
    """Parameters of IFCA.

    With B = 0, all candidates would be the same function, so they are made of the clients' warm-ups instead of one
    initial adapter. A client compares the candidates with its own head, which favours the candidate that it was last
    trained with.

    Attributes:
        num_candidates: K, usually the expected number of groups; at most one per client. 1 is FedIT after a warm-up.
        candidate_start: ``groups``: means over the groups of a random partition of all clients; ``clients``: the
            warm-ups of K random clients. Both are the same if K is the number of clients.
        weights: weights of clients in a mean.
    """

    num_candidates: int = 4
    candidate_start: CandidateStart = "groups"
    weights: Weighting = "num_examples"

    averaged: ClassVar[tuple[str, ...]] = ("candidates",)

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> IFCAState:
        """All clients start from the same adapter.

        Raises:
            ValueError: ``num_candidates`` is below 1, or ``candidate_start`` does not exist.
        """
        if self.num_candidates < 1:
            raise ValueError(f"num_candidates must be at least 1, received {self.num_candidates}")
        if self.candidate_start not in get_args(CandidateStart):
            raise ValueError(f"candidate_start must be groups or clients, received {self.candidate_start!r}")
        return IFCAState(round=0, seed=seed, adapter=adapter, clients=dict(clients))

    def task(self, state: IFCAState, client: ClientId) -> ClientTask | None:
        """A warm-up first; then a task that chooses among the candidates, trains the chosen one and uploads it."""
        if state.round > self.last_round:
            return None
        if not state.candidates or client not in state.warmup.results:
            return state.warmup.task(client, state.adapter, self.budget, state.round)
        names = state.adapter.names("AB")
        stage = Stage(names, self.budget.local_epochs)
        return ClientTask(ROUNDS, state.round, self.model(state, client), (stage,), upload=names)

    def aggregate(
        self, state: IFCAState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> IFCAState:
        """Averages every candidate over the clients that chose it; a candidate without clients does not change."""
        updates = by_client(updates)
        warmup = state.warmup.collect(updates, () if state.candidates else absent)
        if not state.candidates:
            state = replace(state, warmup=warmup)
            return state if warmup.pending(state.clients) else self._make_candidates(state)
        candidates, choices = list(state.candidates), dict(state.choices)
        for k in range(len(candidates)):
            members = [update for update in updates if update.phase == ROUNDS and update.choice == k]
            if members:
                candidates[k] = mean_update(members, self.weights)
            choices.update({update.client: k for update in members})
        return replace(
            state, round=state.round + 1, warmup=warmup.used(), candidates=tuple(candidates), choices=choices
        )

    def model(self, state: IFCAState, client: ClientId) -> ClientModel:
        """The candidate that the client chose last, with all candidates to choose from."""
        if not state.candidates:
            return ClientModel(state.adapter.spec, state.warmup.results.get(client, state.adapter.tensors))
        last = state.candidates[state.choices.get(client, 0)]
        return ClientModel(state.adapter.spec, last, state.candidates)

    def group(self, state: IFCAState, client: ClientId) -> int:
        """The candidate that the client chose last; before its first choice, a group of its own."""
        if client in state.choices:
            return state.choices[client]
        return -1 - sorted(state.clients).index(client)

    def _make_candidates(self, state: IFCAState) -> IFCAState:
        clients = sorted(state.warmup.results)
        if not clients:
            raise RunFailedError("no client's warm-up could be used, so candidates cannot be made")
        order = torch.randperm(len(clients), generator=generator(state.seed, "ifca")).tolist()
        count = min(self.num_candidates, len(clients))
        if self.candidate_start == "clients":
            order = order[:count]
        groups = {clients[i]: place % count for place, i in enumerate(order)}
        firsts = {client: state.warmup.results[client] for client in groups}
        means = ClusterMeans()(firsts, client_weights(state.clients, self.weights), groups)
        candidates = tuple(means[k] for k in range(count))
        return replace(state, round=1, warmup=state.warmup.used(), candidates=candidates)


def build(terms: Terms, **own: Any) -> IFCA:
    """IFCA from the settings of ``ifca.*``."""
    return IFCA(terms.budget, weights=terms.weights, **own)
