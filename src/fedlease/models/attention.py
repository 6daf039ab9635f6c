"""Attention in float32 for bases in bfloat16 on a processor.

torch's backward pass of bfloat16 attention on processors takes two to nine times as long as the one in float32 (torch
2.13, AMD EPYC), up to 40 % of a training step. The rest of the step is faster in bfloat16.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fedlease.models.sources import quiet

__all__ = ["attend_in_float32"]

NAME = "float32_sdpa"


def attend_in_float32(model: Any) -> bool:
    """Makes a transformers model compute its attention in float32 and return it in the dtype of the queries.

    Changes only architectures that take torch's ``scaled_dot_product_attention`` from the registry of transformers.

    Returns:
        Whether the model was changed.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return False
    AttentionInterface.register(NAME, _attention)
    # An implementation that the mask registry does not know would get no mask.
    AttentionMaskInterface.register(NAME, sdpa_mask)
    with quiet():
        # For an architecture that does not use the registry, this warns and changes nothing.
        model.set_attn_implementation(NAME)
    return bool(model.config._attn_implementation == NAME)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    # Autocast would convert them back to bfloat16.
    with torch.autocast(query.device.type, enabled=False):
        output, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **options)
    return output.to(query.dtype), None
