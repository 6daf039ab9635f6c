"""FFA-LoRA: A stays at its common start, only B is trained and averaged over all clients.

Sun, Li, Li, Ding: Improving LoRA in Privacy-preserving Federated Learning. ICLR 2024.
https://arxiv.org/abs/2403.12313
"""

from dataclasses import dataclass
from typing import ClassVar

from fedlease.methods.fedit import FedIT

__all__ = ["FFALoRA"]


@dataclass(frozen=True)
class FFALoRA(FedIT):
    """Parameters of FFA-LoRA: those of FedIT. With A fixed, the mean of the products B A is the mean of B times A.

    Half of FedIT's bytes go up. What comes down is counted whole, although A never changes.
    """

    TRAINED: ClassVar[str] = "B"
    SENT: ClassVar[str] = "B"
