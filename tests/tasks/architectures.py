"""Tiny random models of many architectures, two layers of width 32, each with a tokenizer over bytes."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from fedlease.models.sources import quiet

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<x>"]
VOCABULARY = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
PAD, _, BEGIN, END, OTHER = range(5)
ADDED = {"encoder": "<s> $A </s>", "decoder": "<s> $A", "encoder-decoder": "$A </s>"}

IDS = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END, "vocab_size": len(VOCABULARY)}
DIMS: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
DIMS |= {"max_position_embeddings": 128, **IDS}
BART = {side: 2 for side in ("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads")}
DEBERTA: dict[str, Any] = {**DIMS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}

# Architecture -> kind, type in transformers, configuration, adapted modules.
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...]]] = {
    "bert": ("encoder", "bert", DIMS, ("query", "value")),
    "roberta": ("encoder", "roberta", DIMS, ("query", "value")),
    "deberta": ("encoder", "deberta", DEBERTA, ("in_proj",)),
    "deberta-v2": (
        "encoder",
        "deberta-v2",
        {**DEBERTA, "position_buckets": 32, "norm_rel_ebd": "layer_norm", "share_att_key": True},
        ("query_proj", "value_proj"),
    ),
    "distilbert": (
        "encoder",
        "distilbert",
        {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 128, **IDS},
        ("q_lin", "v_lin"),
    ),
    "albert": ("encoder", "albert", {**DIMS, "embedding_size": 16}, ("query", "value")),
    "mpnet": ("encoder", "mpnet", DIMS, ("attn.q", "attn.v")),
    "electra": ("encoder", "electra", {**DIMS, "embedding_size": 16}, ("query", "value")),
    "modernbert": (
        "encoder",
        "modernbert",
        {**DIMS, "local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": BEGIN, "sep_token_id": END},
        ("Wqkv",),
    ),
    "xlnet": ("encoder", "xlnet", {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48, **IDS}, ("layer_1",)),
    "gpt2": ("decoder", "gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, **IDS}, ("c_fc",)),
    "llama": ("decoder", "llama", {**DIMS, "num_key_value_heads": 1}, ("q_proj", "v_proj")),
    "mistral": (
        "decoder",
        "mistral",
        {**DIMS, "num_key_value_heads": 1, "sliding_window": 8},
        ("q_proj", "v_proj"),
    ),
    "qwen2": ("decoder", "qwen2", {**DIMS, "num_key_value_heads": 1}, ("q_proj", "v_proj")),
    "gemma": ("decoder", "gemma", {**DIMS, "num_key_value_heads": 1, "head_dim": 16}, ("q_proj", "v_proj")),
    "phi": ("decoder", "phi", DIMS, ("q_proj", "v_proj")),
    "opt": ("decoder", "opt", {**DIMS, "ffn_dim": 48, "word_embed_proj_dim": 32}, ("q_proj", "v_proj")),
    "t5": (
        "encoder-decoder",
        "t5",
        {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": PAD, **IDS},
        ("q", "v"),
    ),
    "bart": (
        "encoder-decoder",
        "bart",
        {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 128, **BART, **IDS},
        ("q_proj", "v_proj"),
    ),
}
DECODERS = [name for name, (kind, *_) in ARCHITECTURES.items() if kind == "decoder"]


def save(name: str, folder: Path, *, causal: bool | None = None) -> Path:
    """The model, decoders as language models, without a tokenizer."""
    kind, model_type, settings, _ = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **settings)
    auto = AutoModelForCausalLM if (kind == "decoder" if causal is None else causal) else None
    model = (auto or AutoModelForSequenceClassification).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # norms stay as they are
                parameter.copy_(torch.randn_like(parameter) * 0.4)
    with quiet():
        model.save_pretrained(folder)
    return folder


def tokenizer(added: str, **more: Any) -> PreTrainedTokenizerFast:
    """One token per byte; special tokens in a text count as such."""
    bytes_only = Tokenizer(models.BPE(vocab=VOCABULARY, merges=[], unk_token="<unk>"))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.post_processor = processors.TemplateProcessing(
        single=added, pair=f"{added} $B </s>", special_tokens=[(t, VOCABULARY[t]) for t in SPECIAL]
    )
    options = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", **more}
    return PreTrainedTokenizerFast(tokenizer_object=bytes_only, model_max_length=128, **options)


def variant(saved: Path, folder: Path, added: str, config: dict[str, Any] | None = None, **options: Any) -> Path:
    """A copy with other entries in its configuration, and a tokenizer."""
    shutil.copytree(saved, folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **(config or {})}))
    tokenizer(added, **options).save_pretrained(folder)
    return folder
