"""Loading base models and tokenisers; the heads of a base model."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedlease.config.choices import Quantisation
from fedlease.config.tables import CLASSIFIER, ModelKind, task_facts
from fedlease.core.seeds import generator
from fedlease.core.types import HEAD
from fedlease.errors import InputError, ModelError
from fedlease.models.attention import attend_in_float32
from fedlease.models.checks import (
    check_causal,
    check_packed,
    check_tokenizer,
    no_tokenizer,
    unavailable,
    untrained_modules,
)
from fedlease.models.padding import set_padding, use_padding_of
from fedlease.models.quantise import quantisation_config
from fedlease.models.sources import ModelSource, model_folder, quiet

__all__ = ["BaseModel", "initial_head", "load_base", "load_tokenizer", "new_head_modules"]


VOCABULARY = re.compile(r"tokenizer\.json|tekken\.json|vocab.*|bpe\.codes|.*\.(model|tiktoken)")
"""Names of the files that hold a tokenizer's vocabulary."""


@dataclass(frozen=True)
class BaseModel:
    """A frozen base with the names of its head modules.

    Attributes:
        model: a sequence classifier, whose own head is replaced per client, or a causal language model.
        head_modules: names of the modules that are not pretrained; empty for a language model, whose output layer is
            pretrained.
        revision: commit of a hub model.
        placed: whether the model is on its device and cannot be moved, as quantised models are.
        warnings: about its weights.
        kind: class of the model.
    """

    model: nn.Module
    head_modules: tuple[str, ...]
    revision: str | None
    placed: bool = False
    warnings: tuple[str, ...] = ()
    kind: ModelKind = CLASSIFIER


def load_tokenizer(source: ModelSource, task: str = "classification") -> Any:
    """Loads a model's tokenizer, with the padding that the model needs; never runs code of the model's repository.

    Raises:
        ModelError: the tokenizer cannot be loaded, has no vocabulary, or lacks a token that the task needs.
    """
    from transformers import AutoConfig, AutoTokenizer

    writes = task_facts(task).model.writes
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source.pretrained)
        config = AutoConfig.from_pretrained(**source.pretrained)
        files = sorted(path.name for path in model_folder(source).iterdir())
        words = tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)
    except Exception as error:
        if not source.is_hub and not any(map(VOCABULARY.fullmatch, os.listdir(source.location))):
            raise no_tokenizer(source) from error
        raise unavailable(source, "tokenizer", error) from error
    # Without files, transformers makes a tokenizer that knows no word. A byte-level one needs no vocabulary.
    needed = VOCABULARY if tokenizer.vocab_files_names else re.compile(r"tokenizer_config\.json")
    if not words or not any(map(needed.fullmatch, files)):
        raise no_tokenizer(source)
    if writes and tokenizer.eos_token is None:
        check_causal(source, config, task)  # says first that an encoder cannot generate text
        raise ModelError(f"model {source.name!r}: its tokenizer has no end token, so no answer would ever end")
    set_padding(tokenizer, config, writes=writes)
    if tokenizer.pad_token is None:
        raise ModelError(f"model {source.name!r}: its tokenizer has neither a padding nor an end token")
    return tokenizer


def load_base(
    source: ModelSource,
    *,
    dtype: str,
    dropout: bool,
    tokenizer: Any = None,
    task: str = "classification",
    quantisation: Quantisation = "none",
    checkpointing: bool = False,
    device: str = "cpu",
) -> BaseModel:
    """Loads a base model in evaluation mode, without gradients.

    Args:
        source: of the model.
        dtype: ``float32`` or ``bfloat16``.
        dropout: whether the base keeps its dropout probabilities.
        tokenizer: must fit the model's embeddings, and gives the model its padding; None skips both.
        task: name of the task, which decides on the class of the model.
        quantisation: of the frozen weights, see :mod:`fedlease.models.quantise`.
        checkpointing: whether the backward pass recomputes activations, which saves memory.
        device: of the computation. A quantised model is loaded there, others on the CPU, to be moved later.

    Raises:
        ModelError: the model cannot be loaded, its weights do not fit its configuration or tokenizer, or the task needs
            another kind of model.
        MissingPackageError: the package for quantisation is not installed.
    """
    import transformers

    kind = task_facts(task).model
    extra: dict[str, Any] = {}
    if quantisation != "none":
        extra = {"quantization_config": quantisation_config(quantisation, dtype, device), "device_map": {"": device}}
    try:
        config = transformers.AutoConfig.from_pretrained(**source.pretrained)
        for key, value in config.to_dict().items():
            if not dropout and isinstance(value, float) and ("dropout" in key or "pdrop" in key):
                setattr(config, key, 0.0)
        if getattr(config, "pad_token_id", None) is None and tokenizer is not None:
            config.pad_token_id = tokenizer.pad_token_id
        if kind.writes:
            check_causal(source, config, task)
        packed = getattr(config, "quantization_config", None)
        if packed is not None:
            check_packed(source, packed, quantisation, device)
            extra = {"device_map": {"": device}}
        with quiet():
            model, info = getattr(transformers, kind.auto).from_pretrained(
                **source.pretrained,
                config=config,
                dtype=getattr(torch, dtype),
                # Other shapes in the body are refused below, with their numbers; heads are initialised by us.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **extra,
            )
    except InputError:
        raise
    except Exception as error:
        # Such as a missing package, an unknown quantisation, wrong shapes, or a damaged file.
        raise unavailable(source, "model", error) from error
    model.requires_grad_(False)
    model.eval()
    if dtype == "bfloat16" and device == "cpu":
        attend_in_float32(model)
    if checkpointing:
        if not model.supports_gradient_checkpointing:
            raise ModelError(f"train.gradient_checkpointing: {source.name!r} does not support it")
        # Renamed in transformers 5.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    heads, warnings = [], []
    if kind.head:
        children = [(name, module) for name, module in model.named_children() if name != model.base_model_prefix]
        heads = [name for name, module in children if any(True for _ in module.parameters())]
    fresh = untrained_modules(source, model, info, heads)
    if fresh:
        warnings = [
            f"model {source.name!r}: its checkpoint has no weights for {', '.join(fresh)}, as after masked language "
            "modelling; every client begins with values drawn from the seed, and trains and keeps them with its head"
        ]
    if tokenizer is not None:
        check_tokenizer(source, model, tokenizer)
        use_padding_of(tokenizer, model)
    revision = getattr(config, "_commit_hash", None) if source.is_hub else None
    placed = quantisation != "none" or packed is not None
    return BaseModel(model, (*fresh, *heads), revision, placed, tuple(warnings), kind)


def new_head_modules(base: BaseModel, num_labels: int) -> dict[str, nn.Module]:
    """Makes head modules of the model's architecture for a number of labels, in float32, with all values 0."""
    import transformers

    if not base.head_modules:
        return {}
    config = type(base.model.config).from_dict(base.model.config.to_dict())  # type: ignore[union-attr, operator]
    config.num_labels = num_labels
    with torch.device("meta"):
        twin = getattr(transformers, base.kind.auto).from_config(config, trust_remote_code=False)
    modules = {name: twin.get_submodule(name).to(torch.float32) for name in base.head_modules}
    for module in modules.values():
        module.to_empty(device="cpu").requires_grad_(False).eval()
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.zero_()  # uninitialised memory may even hold NaN
    return modules


def initial_head(modules: Mapping[str, nn.Module], seed: int, std: float = 0.02) -> dict[str, Tensor]:
    """The initial values of all heads with one number of labels: weights are normal with standard deviation ``std``,
    biases 0, and weights of norms 1.
    """
    tensors: dict[str, Tensor] = {}
    for module_name, module in modules.items():
        for path, parameter in module.named_parameters():
            name = f"{HEAD}/{module_name}.{path}"
            if parameter.dim() > 1:
                shape = tuple(parameter.shape)
                tensors[name] = torch.empty(shape).normal_(0, std, generator=generator(seed, "head", name, *shape))
            else:
                tensors[name] = torch.full_like(parameter, float(path.endswith("weight")))
    return tensors
