"""Merges a client's adapter into the base, and writes the model for transformers and servers of its models."""

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedlease.client.resident import ResidentModel
from fedlease.core.types import ClientModel, TensorName, head_names
from fedlease.data.federation import UNSCALED, Scale
from fedlease.errors import ConfigError
from fedlease.models.sources import ModelSource, quiet
from fedlease.peft_plugin.state import keeps_weights_transposed

__all__ = ["in_own_unit", "label_names", "merged_into", "write_merged"]


def label_names(labels: tuple[str, ...], problem_type: str | None = None) -> dict[str, Any]:
    """Labels and problem type as transformers' ``from_pretrained`` and ``config`` take them; empty without labels."""
    if not labels:
        return {}
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    return names if problem_type is None else {**names, "problem_type": problem_type}


def in_own_unit(model: ClientModel, scale: Scale) -> ClientModel | None:
    """The model with a head that predicts numbers in the unit of the client's rows instead of standardised numbers.

    Args:
        model: a model with its head.
        scale: mean and standard deviation of the client's numbers.

    Returns:
        The model; None if the last layer of its head has no bias, to which the mean would be added.
    """
    if scale == UNSCALED:
        return model
    mean, deviation = scale
    heads = {name: model.tensors[name] for name in head_names(model.tensors)}
    last = [name for name, tensor in heads.items() if tensor.dim() == 2 and len(tensor) == 1]
    names = [(name, f"{name.removesuffix('weight')}bias") for name in last]
    if len(names) != 1 or names[0][1] not in heads:
        return None
    weight, bias = names[0]
    moved = {weight: heads[weight] * deviation, bias: heads[bias] * deviation + mean}
    return ClientModel(model.spec, {**model.tensors, **moved})


@contextmanager
def merged_into(resident: ResidentModel, model: ClientModel, num_labels: int) -> Iterator[ClientModel]:
    """Adds a single adapter to the weights of the base within the context, and restores them bit for bit afterwards.

    Args:
        resident: a resident model whose base is in float32 or bfloat16, the type in which the sums are stored.
        model: a single adapter (A, B), with its head.
        num_labels: size of the head.

    Yields:
        A model to load into ``resident`` for the merged weights: the head rounded to the type of the base, and a zero
        adapter.

    Raises:
        ConfigError: an adapted module shares its weights with another, or they are packed.
    """
    base = resident.unwrapped()
    spec = model.spec
    weights = {module: _weight(base, module) for module in spec.target_modules}
    before = {module: weight.detach().to("cpu", copy=True) for module, weight in weights.items()}
    heads = head_names(model.tensors)
    dtype = next(iter(weights.values())).dtype
    nothing = {name: t.to(dtype).float() if name in heads else torch.zeros_like(t) for name, t in model.tensors.items()}
    try:
        with torch.no_grad():
            for module, weight in weights.items():
                a, b = (model.tensors[str(TensorName(module, kind, 0))].double() for kind in "AB")
                change = b @ a * (spec.alpha / spec.r)  # (out, in)
                change = change.T if keeps_weights_transposed(base, (module,)) else change
                weight.copy_((weight.double().cpu() + change.cpu()).to(dtype))
        resident.load(ClientModel(spec, nothing), num_labels)
        yield ClientModel(spec, nothing)
    finally:
        with torch.no_grad():
            for module, weight in weights.items():
                weight.copy_(before[module])


def write_merged(
    folder: Path,
    resident: ResidentModel,
    source: ModelSource,
    tokenizer: Any,
    names: Mapping[str, Any],
    chat_template: str | None = None,
) -> None:
    """Writes the base with its current weights and head, its tokenizer, and the names of its labels.

    Args:
        folder: folder for the files, into which no path of this machine is written.
        resident: a resident model within :func:`merged_into`.
        source: source of the base, whose dropout rates are restored.
        tokenizer: tokenizer of the base, with the padding that it needs.
        names: labels of the head, from :func:`label_names`.
        chat_template: template for the tokenizer; None leaves its own.
    """
    from transformers import AutoConfig

    base: Any = resident.unwrapped()
    config, tokenizer = copy.deepcopy(base.config), copy.deepcopy(tokenizer)
    # Restores dropout that the run switched off, for further training.
    for key, value in AutoConfig.from_pretrained(**source.pretrained).to_dict().items():
        if isinstance(value, float) and ("dropout" in key or "pdrop" in key):
            setattr(config, key, value)
    for key, value in names.items():
        setattr(config, key, value)
    dtype = base.dtype
    state = {name: _stored(tensor, dtype) for name, tensor in base.state_dict().items()}
    with _config_of(base, config), quiet():
        base.save_pretrained(str(folder), state_dict=state)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(str(folder))
    for name in ("config.json", "tokenizer_config.json"):
        _without_paths(folder / name)


def _weight(base: nn.Module, module: str) -> Tensor:
    weight: Tensor = base.get_submodule(module).weight  # type: ignore[assignment]
    if not weight.is_floating_point():
        raise ConfigError(f"form: the weights of {module} are packed, so nothing can be added to them; use adapter")
    others = [
        name
        for name, parameter in base.named_parameters(remove_duplicate=False)
        if parameter is weight and name != f"{module}.weight"
    ]
    if others:
        raise ConfigError(f"form: {module} shares its weights with {others[0]}, so it cannot be merged; use adapter")
    return weight


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)


@contextmanager
def _config_of(base: Any, config: Any) -> Iterator[None]:
    before = base.config
    base.config = config
    try:
        yield
    finally:
        base.config = before


def _without_paths(path: Path) -> None:
    """Removes the base's names on this machine from a file."""
    content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in content.items() if key not in ("_name_or_path", "name_or_path")}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
