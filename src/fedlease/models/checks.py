"""Checks that a model's weights fit its configuration, and that its tokenizer fits its embeddings."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import nn

from fedlease.errors import ModelError
from fedlease.models.sources import SHORT_NAMES, ModelSource

__all__ = [
    "check_causal",
    "check_packed",
    "check_tokenizer",
    "longest_input",
    "no_tokenizer",
    "unavailable",
    "untrained_modules",
]

LONG = 300
"""Number of characters of another library's message that an error quotes."""


def unavailable(source: ModelSource, part: str, error: Exception) -> ModelError:
    """The error for a part of a model that transformers cannot load, in one sentence."""
    reason = " ".join(str(error).split())
    if not isinstance(error, OSError | ValueError | ImportError | RuntimeError) or not reason:
        reason = f"{type(error).__name__} {reason}".strip()
    reason = reason if len(reason) <= LONG else f"{reason[:LONG]}..."
    if not source.is_hub:
        return ModelError(f"model: the {part} in {source.location} cannot be loaded: {reason}")
    near = difflib.get_close_matches(source.name, SHORT_NAMES, n=1)
    known = f"short names: {', '.join(SHORT_NAMES)}" + (f"; did you mean {near[0]!r}?" if near else "")
    return ModelError(
        f"model: no {part} for {source.name!r}: not a folder, and the hub did not give it ({known}): {reason}"
    )


def no_tokenizer(source: ModelSource) -> ModelError:
    """The error for a model without a tokenizer's vocabulary."""
    return ModelError(
        f"model: {source.location} holds no tokenizer (no tokenizer.json, no vocabulary); save the model's own beside "
        "it: tokenizer.save_pretrained(folder)"
    )


def check_causal(source: ModelSource, config: Any, task: str) -> None:
    """Checks that a checkpoint is a causal language model with a trained output layer.

    Raises:
        ModelError: it is not, although transformers has a class that would load it.
    """
    architectures = getattr(config, "architectures", None) or []
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        kind = ", ".join(architectures) or type(config).__name__
        raise ModelError(
            f"model: task {task!r} needs a causal language model, {source.name!r} is {kind}; "
            "take 'smollm2', or a model of the hub such as those of the LLaMA family"
        )


def check_packed(source: ModelSource, packed: Any, quantisation: str, device: str) -> None:
    """Checks that a checkpoint that is quantised can be used, by its ``quantization_config``.

    Raises:
        ModelError: the settings ask to quantise it again, or it has 4 bits and the device is a CPU.
    """
    content = packed if isinstance(packed, Mapping) else packed.to_dict()
    method = content.get("quant_method", "an unnamed method")
    if quantisation != "none":
        raise ModelError(
            f"base.quantisation: {quantisation!r} is not possible for {source.name!r}, which is already quantised "
            f"({getattr(method, 'value', method)})"
        )
    # See fedlease.models.quantise for why.
    if content.get("load_in_4bit") and device.split(":")[0] == "cpu":
        raise ModelError(
            f"model: {source.name!r} is in 4 bits (bitsandbytes), which works on cuda; the device is {device!r}"
        )


def untrained_modules(
    source: ModelSource, model: nn.Module, info: Mapping[str, Iterable[Any]], heads: Collection[str]
) -> tuple[str, ...]:
    """Finds the poolers that the checkpoint has no weights for; they are initialised and trained with the head.

    Checkpoints of masked language models have no pooler, since their training does not use one.

    Args:
        info: transformers' ``output_loading_info``.
        heads: names of the model's head modules.

    Raises:
        ModelError: the checkpoint lacks other weights, has some in other shapes, or has weights of the body that the
            model leaves out. transformers only warns, and the model would compute with random values, different in
            every process, or without a part of itself.
    """
    lacking = {str(name) for name in info["missing_keys"] if not _within(str(name), heads)}
    poolers = {name[: found.end()] for name in lacking if (found := re.search(r"(^|\.)pooler(?=\.)", name))}
    tensors = {name: {f"{name}.{of}" for of, _ in model.get_submodule(name).named_parameters()} for name in poolers}
    fresh = tuple(sorted(pooler for pooler in poolers if heads and tensors[pooler] <= lacking))
    lacking = {name for name in lacking if not _within(name, fresh)}
    weights, faults = f"model: the weights in {source.location}", []
    unexpected = [str(name) for name in info["unexpected_keys"]]
    if lacking:
        instead = f", and hold {_some(unexpected)} in their place" if len(unexpected) >= len(lacking) else ""
        faults.append(f"{weights} lack {_some(lacking)}, which config.json asks for{instead}")
    for name, there, wanted in sorted(info["mismatched_keys"], key=lambda entry: str(entry[0])):
        if not _within(name, heads):
            shapes = f"{tuple(there)} in the file and {tuple(wanted)} by config.json"
            faults.append(f"{weights} do not fit: {name} has the shape {shapes}")
    surplus = _left_out(model, unexpected, heads)
    if surplus and not lacking:
        faults.append(f"{weights} hold {_some(surplus)}, which config.json leaves out")
    for reason in info.get("error_msgs", ()):
        faults.append(f"{weights} cannot be loaded: {' '.join(str(reason).split())[:LONG]}")
    if faults:
        raise ModelError(faults)
    return fresh


def check_tokenizer(source: ModelSource, model: nn.Module, tokenizer: Any) -> None:
    """Checks that the model has an embedding for every id of the tokenizer.

    Raises:
        ModelError: it has fewer.
    """
    try:
        embedding = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return  # a model that hashes its input has no embeddings
    rows = getattr(embedding, "num_embeddings", None)
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if rows is not None and largest >= rows:
        raise ModelError(
            f"model: the tokenizer in {source.location} knows {largest + 1} tokens, its model has embeddings for "
            f"{rows}; call model.resize_token_embeddings(len(tokenizer)), train the new ones, and save the model again"
        )


def longest_input(model: Any, tokenizer: Any) -> int:
    """The largest number of tokens that a model can read, by its positions and by its tokenizer."""
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    # A tokenizer without a limit states an astronomical one; XLNet's -1 positions mean no limit.
    limit = int(tokenizer.model_max_length)
    if isinstance(positions, int) and positions > 0:
        limit = min(limit, positions)
    for name, module in model.named_modules():
        # RoBERTa and similar models count positions from the one after the padding's.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limit = min(limit, len(module.weight) - int(module.padding_idx) - 1)
    return limit


def _within(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _left_out(model: nn.Module, names: Iterable[str], heads: Iterable[str]) -> list[str]:
    """The unexpected tensors of the body, which belong to a layer beyond the last or are a bias without a place."""
    known_names = {known for known in model.state_dict() if not _within(known, heads)}
    kinds, modules = {_numberless(known) for known in known_names}, dict(model.named_modules())

    def belongs(name: str) -> bool:
        if _within(name, heads) or name in known_names:
            return False
        path, _, leaf = name.rpartition(".")
        owner = modules.get(path)
        beyond = name != _numberless(name) and _numberless(name) in kinds
        return beyond or (owner is not None and leaf in owner._parameters and owner._parameters[leaf] is None)

    # A checkpoint of the body alone names its tensors without the prefix.
    stem = getattr(model, "base_model_prefix", "")
    return [name for name in names if belongs(name) or belongs(f"{stem}.{name}")]


def _numberless(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def _some(names: Iterable[str]) -> str:
    known = sorted(names)
    return known[0] if len(known) == 1 else f"{len(known)} tensors such as {known[0]}"
