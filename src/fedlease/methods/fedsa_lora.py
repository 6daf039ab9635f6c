"""FedSA-LoRA: A and B are trained, only A is averaged over all clients; every client keeps its own B.

Guo, Zeng, Wang, Fan, Wang, Qu: Selective Aggregation for Low-Rank Adaptation in Federated Learning. ICLR 2025.
https://arxiv.org/abs/2410.01463
"""

from dataclasses import dataclass
from typing import ClassVar

from fedlease.methods.fedit import FedIT

__all__ = ["FedSALoRA"]


@dataclass(frozen=True)
class FedSALoRA(FedIT):
    """Parameters of FedSA-LoRA: those of FedIT. B is private: trained, kept by the client, never uploaded."""

    SENT: ClassVar[str] = "A"
