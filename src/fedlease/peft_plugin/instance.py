"""The mixer ``instance``, with one weight per input, by its similarity to the client's train rows."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache

from fedlease.peft_plugin.config import FedLeaseConfig
from fedlease.peft_plugin.layer import FedLeaseLayer

__all__ = ["directions_of", "represent", "weigh"]


def represent(
    model: nn.Module,
    layers: Collection[FedLeaseLayer],
    adapter_name: str,
    kwargs: Mapping[str, Any],
    args: Sequence[Any] = (),
) -> Tensor:
    """Directions of inputs with expert 1 alone, (b, hidden), see :func:`directions_of`.

    Args:
        model: the base model.
        layers: its routed layers that have the adapter.
        adapter_name: an adapter with the mixer ``instance``.
        kwargs: named arguments of the base model's forward pass.
        args: its other arguments.
    """
    before = [layer.fedlease_restricted[adapter_name] for layer in layers]
    for layer in layers:
        layer.restrict((1,), adapter_name)
    try:
        return directions_of(model, kwargs, args)
    finally:
        for layer, experts in zip(layers, before, strict=True):
            layer.restrict(experts, adapter_name)


@torch.no_grad()
def directions_of(model: nn.Module, kwargs: Mapping[str, Any], args: Sequence[Any] = ()) -> Tensor:
    """Directions of inputs in a model's last hidden state, (b, hidden): the mean over tokens, scaled to length 1.

    Args:
        model: a base model, with or without adapters.
        kwargs: named arguments of its forward pass.
        args: its other arguments.
    """
    # A cache would be filled here and again by the pass itself. Its argument has several names.
    kwargs = {k: v for k, v in kwargs.items() if k != "logits_to_keep" and not isinstance(v, Cache)}
    # The encoder of an encoder-decoder reads the whole input; the full model may need further arguments.
    config: Any = getattr(model, "config", None)
    body = cast(Any, model).get_encoder() if getattr(config, "is_encoder_decoder", False) else model
    known = inspect.signature(body.forward).parameters
    if body is not model:
        kwargs = {k: v for k, v in kwargs.items() if k in known}
    if "use_cache" in known:
        kwargs["use_cache"] = False
    mask = kwargs.get("attention_mask")
    if mask is not None and "position_ids" in known and "position_ids" not in kwargs and not mask[:, 0].all():
        # With padding on the left, positions count from the first token of the text, as in ``generate``.
        kwargs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    hidden = body(*args, **{**kwargs, "output_hidden_states": True, "return_dict": True}).hidden_states[-1]
    mask = hidden.new_ones(hidden.shape[:2]) if mask is None else mask
    # Scaling does not turn a direction: the sum over tokens does as well as their mean.
    return nn.functional.normalize((hidden.float() * mask.float().unsqueeze(-1)).sum(1), dim=-1)


def weigh(
    model: nn.Module,
    layers: Collection[FedLeaseLayer],
    adapter_name: str,
    config: FedLeaseConfig,
    kwargs: Mapping[str, Any],
    args: Sequence[Any] = (),
) -> None:
    """Sets how much of expert 1 every input gets: blend x max(0, cos to the anchors, mean); see :func:`represent`."""
    # Restricted (also by ``represent`` itself): nothing is weighed.
    if config.mixer != "instance" or any(layer.fedlease_restricted[adapter_name] for layer in layers):
        return
    shares = None
    if config.anchor is not None:
        units = represent(model, layers, adapter_name, kwargs, args)
        # In float32 even if the caller's autocast would narrow the product.
        shares = config.blend * (units * units.new_tensor(config.anchor)).sum(-1).clamp(min=0)
    for layer in layers:
        layer.instance_shares = shares
