"""SCAFFOLD: FedIT whose clients correct their gradients by the difference from the mean gradient of all clients.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD: Stochastic Controlled Averaging for Federated Learning.
ICML 2020. https://arxiv.org/abs/1910.06378
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from fedlease.core.aggregate import client_weights
from fedlease.core.codec import serialisable
from fedlease.core.local_term import LocalTerm
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, TensorName, Tensors
from fedlease.methods.base import CommonState, Terms
from fedlease.methods.fedit import FedIT

__all__ = ["Scaffold", "ScaffoldState", "build"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class ScaffoldState(CommonState):
    """State of a SCAFFOLD run.

    Attributes:
        variates: client -> c_i, the mean gradient of A and B in its last task; absent, and counted as 0, before that.
    """

    variates: Mapping[ClientId, Tensors] = field(default_factory=dict)


@dataclass(frozen=True)
class Scaffold(FedIT):
    """FedIT with <c - c_i, w> in the local loss, where c is the mean of c_i over all clients.

    c_i is the mean gradient over the steps of the client's last task, without the term. Under plain SGD this equals the
    paper's second option, c_i - c + (x - y_i) / (K eta); under AdamW it is still a gradient.
    """

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> ScaffoldState:
        """The initial adapter is the first shared one, and all variates are 0."""
        return ScaffoldState(round=1, adapter=adapter, clients=dict(clients))

    def task(self, state: CommonState, client: ClientId) -> ClientTask | None:
        """FedIT's task with the term, which also uploads mean gradients."""
        assert isinstance(state, ScaffoldState)
        task = super().task(state, client)
        if task is None:
            return None
        slope = self._slope(state, client)
        return replace(task, term=LocalTerm(slope=slope) if slope else None, gradients=True)

    def combined(self, state: CommonState, updates: Sequence[ClientUpdate]) -> CommonState:
        """Averages A and B, and replaces the variates of the clients that answered."""
        assert isinstance(state, ScaffoldState)
        names = {str(TensorName.parse(name).gradient): name for name in state.adapter.names("AB")}
        variates, trained = dict(state.variates), []
        for update in updates:
            own = update.tensors
            variates[update.client] = {name: own[gradient] for gradient, name in names.items()}
            trained.append(replace(update, tensors={name: own[name] for name in own.keys() - names.keys()}))
        return super().combined(replace(state, variates=dict(sorted(variates.items()))), trained)

    def _slope(self, state: ScaffoldState, client: ClientId) -> dict[str, Tensor]:
        """c - c_i; {} as long as no client has trained."""
        weights = client_weights(state.clients, self.weights)
        total = sum(weights.values())
        slope: dict[str, Tensor] = {}
        for other, variate in state.variates.items():
            share = weights.get(other, 0.0) / total - (other == client)
            for name, tensor in variate.items():
                part = share * tensor.double()
                slope[name] = slope[name] + part if name in slope else part
        return {name: tensor.float() for name, tensor in sorted(slope.items())}


def build(terms: Terms) -> Scaffold:
    """SCAFFOLD, which has no settings of its own."""
    return Scaffold(terms.budget, terms.weights)
