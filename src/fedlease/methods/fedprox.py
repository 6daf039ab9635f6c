"""FedProx: FedIT whose clients are pulled towards the received weights while they train.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated Optimization in Heterogeneous Networks. MLSys 2020.
https://arxiv.org/abs/1812.06127
"""

from dataclasses import dataclass, replace

from fedlease.core.local_term import LocalTerm
from fedlease.core.types import ClientId, ClientTask
from fedlease.methods.base import CommonState, Terms
from fedlease.methods.fedit import FedIT

__all__ = ["FedProx", "build"]


@dataclass(frozen=True)
class FedProx(FedIT):
    """FedIT with mu / 2 ||w - w0||^2 in the local loss; w0 is the adapter that the client received.

    Attributes:
        mu: at least 0; useful from 0.001 to 1. 0 is FedIT, bit for bit.
    """

    mu: float = 0.01

    def task(self, state: CommonState, client: ClientId) -> ClientTask | None:
        """FedIT's task with the term."""
        task = super().task(state, client)
        return task if task is None or not self.mu else replace(task, term=LocalTerm(pull=self.mu))


def build(terms: Terms, *, mu: float = 0.01) -> FedProx:
    """FedProx from the settings of ``fedprox.*``."""
    return FedProx(terms.budget, terms.weights, mu=mu)
