"""FLoRA: clients' adapters are stacked and added to the frozen weights, and every round starts with new adapters.

Wang, Shen, He, Sun, Wang, Lyu, Li: FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank
Adaptations. NeurIPS 2024. https://arxiv.org/abs/2409.05976
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedlease.core.adapters import initial_adapter, shape_of
from fedlease.core.aggregate import weighted_uploads
from fedlease.core.codec import serialisable
from fedlease.core.low_rank import at_rank
from fedlease.core.ranks import Ranks
from fedlease.core.residual import extended, on_residual, stacked
from fedlease.core.seeds import derive
from fedlease.core.types import ClientId, ClientModel, ClientUpdate
from fedlease.methods.base import CommonState, Terms
from fedlease.methods.on_residual import OnResidual, ResidualState

__all__ = ["FLoRA", "FLoRAState", "build"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class FLoRAState(ResidualState):
    """State of a FLoRA run: the residual is the sum of all stacks, and ``adapter`` has a new A and B = 0.

    Attributes:
        seed: root seed, for the A of every round.
    """

    seed: int


@dataclass(frozen=True)
class FLoRA(OnResidual):
    """Parameters of FLoRA: those of FedIT, and ranks.

    Attributes:
        ranks: ranks of the clients; None: all have the common rank. A client of rank r_i trains the first r_i rows of
            the round's A, with alpha_i = alpha r_i / R, so that alpha / r is the same for all.
    """

    ranks: Ranks | None = None

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> FLoRAState:
        """The initial adapter is that of the first round; the residual is empty."""
        return FLoRAState(round=1, adapter=adapter, clients=dict(clients), seed=seed)

    def combined(self, state: CommonState, updates: Sequence[ClientUpdate]) -> CommonState:
        """Adds the mean of the products, ``[w_1 B_1 ... w_N B_N] [A_1; ...; A_N]``, to the residual; draws a new A."""
        assert isinstance(state, FLoRAState)
        stack = stacked(*weighted_uploads(updates, self.weights))
        return replace(state, adapter=_drawn(state), residual=extended(state.residual, stack))

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The round's adapter at the client's rank, on top of the residual."""
        assert isinstance(state, FLoRAState)
        spec = state.adapter.spec
        own = at_rank(state.adapter, spec.r if self.ranks is None else self.ranks.of(client))
        return on_residual(own, state.residual)


def _drawn(state: FLoRAState) -> ClientModel:
    """The adapter of the next round: a newly drawn A, the same for all clients, and B = 0."""
    spec, tensors = state.adapter.spec, state.adapter.tensors
    sides = {module: shape_of(tensors, module)[::-1] for module in spec.target_modules}
    seed = derive(state.seed, "flora", state.round + 1)
    return initial_adapter(sides, r=spec.r, alpha=spec.alpha, dropout=spec.dropout, seed=seed)


def build(terms: Terms) -> FLoRA:
    """FLoRA, which has no settings of its own."""
    return FLoRA(terms.budget, terms.weights, ranks=terms.ranks)
