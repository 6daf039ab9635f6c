"""The tiny random models of the preset ``smoke`` and of the tests, made without a download or any text."""

from pathlib import Path
from typing import Any

from fedlease.core.seeds import derive, seed_torch
from fedlease.files import new_folder

__all__ = ["make_tiny"]

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""Chat template with a line for each message and nothing else, to keep prompts short."""

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
"""Configuration that encoder and decoder share."""


def make_tiny(folder: Path, seed: int, *, writes: bool = False) -> None:
    """Writes a random two-layer model over bytes, which can learn planted signals in seconds.

    Args:
        folder: is made.
        seed: of the weights.
        writes: whether to make a decoder, which generates text, instead of an encoder.
    """
    import torch
    from tokenizers import pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    sizes = {**SIZES, "vocab_size": len(vocabulary)}
    state = torch.random.get_rng_state()
    seed_torch(derive(seed, "tiny-random"), torch.device("cpu"))
    model: Any
    if writes:
        model = LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=None, eos_token_id=vocabulary["[SEP]"]))
    else:
        config = BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        model = BertForSequenceClassification(config)
    torch.random.set_rng_state(state)
    with new_folder(folder) as scratch:
        model.save_pretrained(scratch)
        _tokenizer(vocabulary, writes=writes).save_pretrained(scratch)


def _tokenizer(vocabulary: dict[str, int], *, writes: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    bytes_only = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]"))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    more: dict[str, Any] = {"eos_token": "[SEP]", "padding_side": "left", "chat_template": TEMPLATE}
    if not writes:
        bytes_only.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
        )
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        more = {"cls_token": "[CLS]", "sep_token": "[SEP]", "model_input_names": inputs}
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, pad_token="[PAD]", unk_token="[UNK]", model_max_length=512, **more
    )
