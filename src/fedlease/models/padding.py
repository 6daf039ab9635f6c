"""Padding that changes no prediction: which side it goes to, which id it has, and which rows may share a batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["groups_of", "set_padding", "use_padding_of"]


def set_padding(tokenizer: Any, config: Any, *, writes: bool) -> None:
    """Gives a tokenizer the padding that its model needs, whatever was saved with it.

    Rows that are classified begin at the first place, from which positions are counted, unless the classifier reads the
    last place, as XLNet's does. Prompts end at the last place, where their answers begin. Rows that are too long are
    cut on the right.

    Args:
        tokenizer: is changed; without a padding token it keeps none if it has no other special token to take.
        writes: whether the model continues prompts.
    """
    if tokenizer.pad_token is None:
        # An encoder-decoder classifier looks for end tokens, so padding must not be one.
        kinds = ("unk_token", "bos_token") if getattr(config, "is_encoder_decoder", False) else ()
        found = [token for kind in (*kinds, "eos_token") if (token := getattr(tokenizer, kind, None))]
        tokenizer.pad_token = found[0] if found else None
    reads_last = getattr(config, "summary_type", None) == "last"
    tokenizer.truncation_side = "right"
    tokenizer.padding_side = "left" if writes or reads_last else "right"


def use_padding_of(tokenizer: Any, model: Any) -> None:
    """Has a loaded model take the tokenizer's padding for padding, and end answers where the tokenizer ends texts.

    The embedding keeps what it was built with: RoBERTa counts positions from the id that it was trained with.
    Of the settings for generation only special tokens stay: a repetition penalty would count padding too.
    """
    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id = int(tokenizer.pad_token_id)
    if model.can_generate():
        from transformers import GenerationConfig

        known = [model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id]
        ends = {int(end) for ids in known if ids is not None for end in (ids if isinstance(ids, list) else [ids])}
        model.generation_config = GenerationConfig(
            bos_token_id=model.config.bos_token_id,
            eos_token_id=sorted(ends) or None,
            pad_token_id=int(tokenizer.pad_token_id),
        )


def groups_of(config: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Places of the rows that may share a batch, group by group.

    Encoder-decoder classifiers (BART, T5) read a row at its last end token and take as many of these in every row of a
    batch; a text may hold any number. Every other model has one group. ``input_ids`` are (b, tokens).
    """
    ids = inputs["input_ids"]
    if not getattr(config, "is_encoder_decoder", False):
        return [torch.arange(len(ids), device=ids.device)]
    counts = (ids == config.eos_token_id).sum(1)
    return [(counts == count).nonzero().flatten() for count in counts.unique()]
