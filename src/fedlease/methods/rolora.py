"""RoLoRA: B and A are trained and averaged in turn, so that the mean of the products is the product of the means.

Chen, Guo, Ju, Dalal, Zhu, Khisti: Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA.
NeurIPS 2025. https://arxiv.org/abs/2502.01755 (first as https://arxiv.org/abs/2409.02346)
"""

from dataclasses import dataclass, replace

from fedlease.core.types import ClientId, ClientModel, ClientTask
from fedlease.methods.base import CommonState, Terms
from fedlease.methods.fedit import FedIT

__all__ = ["RoLoRA", "build"]


@dataclass(frozen=True)
class RoLoRA(FedIT):
    """FedIT of B alone in odd rounds, of A alone in even ones; what is frozen stays as it is, and is not sent.

    B comes first: it begins at 0, and as long as it is 0 no gradient reaches A.
    """

    def task(self, state: CommonState, client: ClientId) -> ClientTask | None:
        """Trains the half whose turn it is, and gives it back."""
        half = "B" if state.round % 2 else "A"
        task = FedIT(self.budget, self.weights, trained=half, sent=half).task(state, client)
        return task if task is None else replace(task, model=self.model(state, client))

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The shared adapter, of which a client that was there in the last round lacks the half that was averaged."""
        return replace(state.adapter, kept=state.adapter.names("AB"))


def build(terms: Terms) -> RoLoRA:
    """RoLoRA, which has no settings of its own."""
    return RoLoRA(terms.budget, terms.weights)
