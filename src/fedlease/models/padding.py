"""Padding that does not change predictions: its side, its id, and the rows that may share a batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["groups_of", "set_padding", "use_padding_of"]


def set_padding(tokenizer: Any, config: Any, *, writes: bool) -> None:
    """Sets the padding that a model needs in its tokenizer, whatever was saved with it.

    Rows to classify are padded on the right, since positions are counted from the first token, unless the classifier
    reads the last token, as XLNet's does. Prompts are padded on the left, since answers follow their last token. Rows
    that are too long are cut on the right.

    Args:
        tokenizer: is changed. If it has no padding token, another special token serves, if there is one.
        config: of the model.
        writes: whether the model generates text.
    """
    if tokenizer.pad_token is None:
        # An encoder-decoder classifier searches for end tokens, so padding must not be one.
        kinds = ("unk_token", "bos_token") if getattr(config, "is_encoder_decoder", False) else ()
        found = [token for kind in (*kinds, "eos_token") if (token := getattr(tokenizer, kind, None))]
        tokenizer.pad_token = found[0] if found else None
    reads_last = getattr(config, "summary_type", None) == "last"
    tokenizer.truncation_side = "right"
    tokenizer.padding_side = "left" if writes or reads_last else "right"


def use_padding_of(tokenizer: Any, model: Any) -> None:
    """Sets the padding and end tokens of a loaded model to those of its tokenizer.

    The embedding keeps its own padding index, from which RoBERTa counts positions. Other settings for generation are
    dropped: a repetition penalty, for one, would count padding.
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
    """Indices of the rows that may share a batch, for each group.

    Encoder-decoder classifiers (BART, T5) read a row at its last end token, and need the same number of end tokens in
    every row of a batch. All other models have one group. ``input_ids`` are (b, tokens).
    """
    ids = inputs["input_ids"]
    if not getattr(config, "is_encoder_decoder", False):
        return [torch.arange(len(ids), device=ids.device)]
    counts = (ids == config.eos_token_id).sum(1)
    return [(counts == count).nonzero().flatten() for count in counts.unique()]
