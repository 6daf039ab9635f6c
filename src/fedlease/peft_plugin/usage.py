"""Which experts a model uses, per layer: counted in evaluation, without padding."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from fedlease.peft_plugin.model import FedLeaseModel

__all__ = ["ExpertUsage", "record_usage"]


class ExpertUsage:
    """Sums over the tokens seen so far.

    Attributes:
        weights: module -> (M,) float64, sum over tokens of the weight of each expert.
        distinct: module -> sum over tokens of the number of experts with a weight above 0.
        tokens: module -> number of tokens counted.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self.distinct: dict[str, float] = {}
        self.tokens: dict[str, int] = {}
        self.mask: Tensor | None = None

    def add(self, module: str, weights: Tensor) -> None:
        """Counts (..., M) weights of one forward pass, leaving out tokens that the attention mask marks as padding."""
        flat = weights.detach().flatten(0, -2)  # (tokens, M)
        # While generating from a cache, only new tokens pass: none is padding, and the mask is longer than they are.
        if self.mask is not None and self.mask.numel() == len(flat):
            flat = flat[self.mask.flatten().bool()]
        self.weights[module] = self.weights.get(module, 0) + flat.double().sum(0).cpu()
        self.distinct[module] = self.distinct.get(module, 0.0) + float((flat > 0).sum())
        self.tokens[module] = self.tokens.get(module, 0) + len(flat)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Module -> mean weight of each expert and mean number of distinct experts per token."""
        return {
            module: {
                "weights": [round(float(w), 6) for w in self.weights[module] / max(self.tokens[module], 1)],
                "experts_per_token": round(self.distinct[module] / max(self.tokens[module], 1), 6),
            }
            for module in self.weights
        }


@contextmanager
def record_usage(model: PeftModel) -> Iterator[ExpertUsage]:
    """Counts while the context is open. Passes with gradients are not counted, so checkpointing counts nothing twice.

    Args:
        model: a PEFT model with a FEDLEASE adapter; others record nothing.
    """
    usage = ExpertUsage()
    tuner = model.base_model
    if not isinstance(tuner, FedLeaseModel):
        yield usage
        return

    signature = inspect.signature(tuner.model.forward)

    def remember_mask(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = signature.bind_partial(*args, **kwargs).arguments.get("attention_mask")
        usage.mask = mask if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None

    handle = tuner.model.register_forward_pre_hook(remember_mask, with_kwargs=True)
    layers = tuner.routed_layers()
    for module, layer in layers.items():
        layer.on_weights = lambda weights, module=module: usage.add(module, weights)
    try:
        yield usage
    finally:
        handle.remove()
        for layer in layers.values():
            layer.on_weights = None
