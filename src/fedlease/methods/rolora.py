"""RoLoRA: B and A are trained and averaged in turns, so that the mean of products is the product of means.

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
    """FedIT of only B in odd rounds and only A in even rounds; the other matrix is frozen and not sent.

    B is trained first: it starts at 0, and as long as it is 0, A gets no gradient.
    """

    def task(self, state: CommonState, client: ClientId) -> ClientTask | None:
        """A task that trains and uploads the matrix whose turn it is."""
        half = "B" if state.round % 2 else "A"
        task = FedIT(self.budget, self.weights, trained=half, sent=half).task(state, client)
        return task if task is None else replace(task, model=self.model(state, client))

    def model(self, state: CommonState, client: ClientId) -> ClientModel:
        """The shared adapter; a client of the last round is sent only the matrix that was averaged since."""
        return replace(state.adapter, kept=state.adapter.names("AB"))


def build(terms: Terms) -> RoLoRA:
    """RoLoRA, which has no settings of its own."""
    return RoLoRA(terms.budget, terms.weights)
