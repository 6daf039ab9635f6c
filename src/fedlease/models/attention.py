"""Attention in float32 for bases in bfloat16 on a processor.

torch's backward pass of bfloat16 attention on processors takes two to nine times as long as the one in float32 (torch
2.13, AMD EPYC), up to 40 % of a training step. All else of the step gains from bfloat16.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fedlease.models.sources import quiet

__all__ = ["attend_in_float32"]

NAME = "float32_sdpa"


def attend_in_float32(model: Any) -> bool:
    """Has a model of transformers widen queries, keys and values before its attention, and narrow what comes out.

    Only architectures that attend by torch's ``scaled_dot_product_attention``, looked up in the registry of
    transformers, are changed.

    Returns:
        Whether the model was changed.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return False
    AttentionInterface.register(NAME, _attention)
    # Unknown to the masks, it would be left without one.
    AttentionMaskInterface.register(NAME, sdpa_mask)
    with quiet():
        # Warns, and changes nothing, where an architecture does not take its attention from the registry.
        model.set_attn_implementation(NAME)
    return bool(model.config._attn_implementation == NAME)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    # Autocast would narrow them again.
    with torch.autocast(query.device.type, enabled=False):
        output, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **options)
    return output.to(query.dtype), None
