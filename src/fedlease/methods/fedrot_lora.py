"""FedRot-LoRA: FedIT whose clients' adapters are rotated towards the received one before they are averaged.

Zhang, Kim, Cha, Vikalo: FedRot-LoRA: Mitigating Rotational Misalignment in Federated LoRA. ICML 2026.
https://arxiv.org/abs/2602.23638
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedlease.core.alignment import aligned
from fedlease.core.types import ClientUpdate, TensorName, Tensors
from fedlease.methods.base import CommonState, Terms
from fedlease.methods.fedit import FedIT

__all__ = ["FedRotLoRA", "build"]


@dataclass(frozen=True)
class FedRotLoRA(FedIT):
    """FedIT of the pairs R_i^T A_i and B_i R_i, whose products are those of A_i and B_i.

    R_i brings A_i as near as possible to the received A in even rounds, and B_i to the received B in odd rounds. The
    first round has no rotation, since the received B is 0.

    Attributes:
        strength: lambda in [0, 1]; 0 is FedIT, bit for bit, and 1 is the full rotation.
    """

    strength: float = 1.0

    def combined(self, state: CommonState, updates: Sequence[ClientUpdate]) -> CommonState:
        """Averages the rotated A and B."""
        if self.strength and state.round > 1:
            side = "B" if state.round % 2 else "A"
            updates = [replace(u, tensors=self._turned(u.tensors, state.adapter.tensors, side)) for u in updates]
        return super().combined(state, updates)

    def _turned(self, tensors: Tensors, received: Tensors, side: str) -> Tensors:
        turned = dict(tensors)
        for name in sorted(name for name in tensors if TensorName.parse(name).kind == "A"):
            pair = name, str(TensorName.parse(name)._replace(kind="B"))
            a, b = (tensors[each].double() for each in pair)
            reference = received[pair[side == "B"]].double()
            for each, tensor in zip(pair, aligned(a, b, reference, side, self.strength), strict=True):
                turned[each] = tensor.to(tensors[each].dtype)
        return turned


def build(terms: Terms, *, strength: float = 1.0) -> FedRotLoRA:
    """FedRot-LoRA from the settings of ``fedrot_lora.*``."""
    return FedRotLoRA(terms.budget, terms.weights, strength=strength)
