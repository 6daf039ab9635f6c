"""Counts the use of experts in each layer, in evaluation, without padding."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from fedlease.peft_plugin.model import FedLeaseModel

__all__ = ["ExpertUsage", "record_usage", "uncounted"]


class ExpertUsage:
    """Sums over the tokens so far.

    Attributes:
        weights: module -> (M,) float64, sum over tokens of the weight of each expert.
        distinct: module -> sum over tokens of the number of experts with a weight above 0.
        tokens: module -> number of tokens counted.
        mask: (b, tokens) of the current pass, 0 where a token is not counted; None counts all.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self.distinct: dict[str, float] = {}
        self.tokens: dict[str, int] = {}
        self.mask: Tensor | None = None

    def add(self, module: str, weights: Tensor) -> None:
        """Counts the weights (..., M) of a forward pass, except those of padding.

        Weights whose leading shape is not (b, tokens) in some layout belong to no token, such as those of DeBERTa's
        positions, and are not counted.
        """
        flat = weights.detach().flatten(0, -2)  # (tokens, M)
        if self.mask is not None:
            shape, mask = weights.shape[:-1], self.mask
            if shape != mask.shape and shape == mask.T.shape:  # XLNet has tokens first
                mask = mask.T
            if shape not in (mask.shape, (mask.numel(),)):
                return
            flat = flat[mask.flatten().bool()]
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
def uncounted(model: PeftModel) -> Iterator[None]:
    """Within the context, the model's passes are not counted."""
    tuner = model.base_model
    layers = list(tuner.routed_layers().values()) if isinstance(tuner, FedLeaseModel) else []
    listeners = [layer.on_weights for layer in layers]
    for layer in layers:
        layer.on_weights = None
    try:
        yield
    finally:
        for layer, listener in zip(layers, listeners, strict=True):
            layer.on_weights = listener


@contextmanager
def record_usage(model: PeftModel) -> Iterator[ExpertUsage]:
    """Counts the use of experts within the context, except in passes with gradients, which checkpointing repeats.

    Args:
        model: a PEFT model with a FEDLEASE adapter; of other models nothing is counted.
    """
    usage = ExpertUsage()
    tuner = model.base_model
    if not isinstance(tuner, FedLeaseModel):
        yield usage
        return

    signature = inspect.signature(tuner.model.forward)

    def remember_mask(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = signature.bind_partial(*args, **kwargs).arguments
        mask, ids = given.get("attention_mask"), given.get("input_ids")
        usage.mask = mask if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None
        if usage.mask is not None and ids is not None and ids.shape[1] < usage.mask.shape[1]:
            # A step of ``generate`` computes only new tokens. Rows of a batch that have ended continue with end tokens
            # and padding, which are not counted.
            ends = torch.tensor(sorted(tuner.end_tokens), dtype=ids.dtype, device=ids.device)
            usage.mask = usage.mask[:, -ids.shape[1] :] * ~torch.isin(ids, ends)

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
