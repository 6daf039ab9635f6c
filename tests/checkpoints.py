"""Folders with tiny random models of many architectures, each saved as its pretraining leaves it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from fedlease.models.tiny import make_tiny

VOCABULARY = 260
"""Of the tokenizer of ``tiny-random``: bytes, and [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3."""

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "pad_token_id": 0,
}
HALVES: dict[str, Any] = {f"{side}_{what}": size for side in ("encoder", "decoder")
                          for what, size in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 24))}  # fmt: skip

ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("Bert", "ForMaskedLM", SIZES),
    "bert-body": ("Bert", "Model", SIZES),
    "roberta": ("Roberta", "ForMaskedLM", SIZES),
    "roberta-body": ("Roberta", "Model", SIZES),
    "xlm-roberta": ("XLMRoberta", "Model", SIZES),
    "camembert": ("Camembert", "Model", SIZES),
    "mpnet": ("MPNet", "Model", SIZES),
    "albert": ("Albert", "ForMaskedLM", {**SIZES, "embedding_size": 8}),
    "electra": ("Electra", "ForPreTraining", {**SIZES, "embedding_size": 8}),
    "distilbert": (
        "DistilBert",
        "ForMaskedLM",
        {"vocab_size": VOCABULARY, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "pad_token_id": 0},
    ),
    "deberta": ("DebertaV2", "ForMaskedLM", {**SIZES, "pos_att_type": ["c2p", "p2c"], "relative_attention": True}),
    "modernbert": (
        "ModernBert",
        "ForMaskedLM",
        {**SIZES, **dict(bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3)},
    ),
    "xlnet": (
        "XLNet",
        "LMHeadModel",
        {"vocab_size": VOCABULARY, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24, "pad_token_id": 0},
    ),
    "gpt2": (
        "GPT2",
        "LMHeadModel",
        {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 2, "eos_token_id": 3},
    ),
    "llama": ("Llama", "ForCausalLM", {**SIZES, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}),
    "opt": (
        "OPT",
        "ForCausalLM",
        {k: v for k, v in SIZES.items() if k != "intermediate_size"} | {"ffn_dim": 24, "word_embed_proj_dim": 16},
    ),
    "t5": (
        "T5",
        "ForConditionalGeneration",
        {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
    ),
    "bart": ("Bart", "ForConditionalGeneration", {"vocab_size": VOCABULARY, "d_model": 16, **HALVES}),
}
"""Name -> class stem, what it was trained as, and its configuration."""


def save_checkpoint(folder: Path, name: str, *, tokenizer: str | None = "classification", **config: Any) -> Path:
    """Writes a model as its pretraining leaves it, with the byte tokenizer of a task; None writes none."""
    stem, trained_as, sizes = ARCHITECTURES[name]
    torch.manual_seed(1)
    made = getattr(transformers, f"{stem}Config")(**{**sizes, **config})
    if tokenizer is not None:
        make_tiny(folder, 0, writes=tokenizer == "generation")
        (folder / "model.safetensors").unlink()
        (folder / "config.json").unlink()
    getattr(transformers, stem + trained_as)(made).save_pretrained(folder)
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Writes other weights instead of a checkpoint's."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def flip(path: Path, place: float = 0.5) -> None:
    """Changes one bit of a file, at a share of its length."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
