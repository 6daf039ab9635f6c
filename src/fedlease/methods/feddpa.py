"""FedDPA: one global and many local adapters, blended by the similarity of an input to the client's rows.

Yang, Long, Shen, Jiang, Blumenstein: Dual-Personalizing Adapter for Federated Foundation Models. NeurIPS 2024.
https://arxiv.org/abs/2403.19211
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from fedlease.core.adapters import renumber
from fedlease.core.aggregate import mean_update
from fedlease.core.choices import Weighting
from fedlease.core.codec import serialisable
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Stage, Tensors
from fedlease.methods.base import CommonMethod, CommonState, Terms

__all__ = ["FedDPA", "FedDPAState", "build"]

PHASE = "dual"
GLOBAL, LOCAL = 0, 1


@serialisable
@dataclass(frozen=True, kw_only=True)
class FedDPAState(CommonState):
    """State of a FedDPA run.

    Attributes:
        shared: the global A and B, numbered as expert 0.
    """

    shared: Tensors


@dataclass(frozen=True)
class FedDPA(CommonMethod):
    """Parameters of FedDPA-T, the form in which both adapters are trained in every round.

    As in the public code, the local adapter is trained first, beside the global mean with which it is scored. Its stage
    is work beyond the budget T, which counts passes for the uploaded adapter.

    Attributes:
        blend: largest weight of the local adapter, in [0, 1], and its weight during training. 0 is FedIT.
        num_anchors: number of train rows with which an input is compared, at least 1.
        weights: weights of clients in a mean.
    """

    blend: float = 0.5
    num_anchors: int = 5
    weights: Weighting = "num_examples"

    averaged: ClassVar[tuple[str, ...]] = ("shared",)
    warms_up: ClassVar[bool] = False

    def init(self, adapter: ClientModel, clients: Mapping[ClientId, int], seed: int) -> FedDPAState:
        """Both adapters start from the same values.

        Raises:
            ValueError: a parameter is out of range.
        """
        if not 0 <= self.blend <= 1:
            raise ValueError(f"blend must be in [0, 1], received {self.blend}")
        if self.num_anchors < 1:
            raise ValueError(f"num_anchors must be at least 1, received {self.num_anchors}")
        return FedDPAState(round=1, adapter=adapter, clients=dict(clients), shared=adapter.tensors)

    def task(self, state: FedDPAState, client: ClientId) -> ClientTask | None:
        """A task that trains the local adapter beside the frozen global one, then only the latter, and uploads it."""
        if state.round > self.last_round:
            return None
        model = self.model(state, client)
        shared, local = model.names("AB", GLOBAL), model.names("AB", LOCAL)
        epochs = self.budget.epochs(state.round)
        stages = (Stage(local, epochs), Stage(shared, epochs, experts=(GLOBAL,)))
        return ClientTask(PHASE, state.round, model, stages, upload=shared)

    def aggregate(
        self, state: FedDPAState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> FedDPAState:
        """Averages the global adapter."""
        shared = mean_update(updates, self.weights) if updates else state.shared
        return replace(state, round=state.round + 1, shared=shared)

    def model(self, state: FedDPAState, client: ClientId) -> ClientModel:
        """Both adapters; the client replaces the initial local one by its own, and adds its anchor."""
        spec = replace(
            state.adapter.spec,
            num_experts=2,
            own=LOCAL,
            mixer="instance",
            blend=self.blend,
            anchors=self.num_anchors,
        )
        tensors = {**renumber(state.shared, GLOBAL), **renumber(state.adapter.tensors, LOCAL)}
        return ClientModel(spec, tensors)

    def group(self, state: FedDPAState, client: ClientId) -> int:
        """All clients are one group."""
        return 0


def build(terms: Terms, **own: Any) -> FedDPA:
    """FedDPA from the settings of ``feddpa.*``."""
    return FedDPA(terms.budget, weights=terms.weights, **own)
