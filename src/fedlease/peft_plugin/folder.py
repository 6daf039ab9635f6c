"""Writing and reading a whole model, with mixture and router, as a folder for ``PeftModel.from_pretrained``."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file, save
from torch import nn

from fedlease.core.types import ANCHOR, HEAD, AdapterSpec, ClientModel, Mixer, TensorName, head_names
from fedlease.files import write_atomically
from fedlease.peft_plugin.config import FedLeaseConfig
from fedlease.peft_plugin.state import keeps_weights_transposed, peft_config_for

__all__ = ["CONFIG", "WEIGHTS", "read_adapter", "write_adapter"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def write_adapter(
    folder: Path, model: ClientModel, base: nn.Module, head_modules: Iterable[str], **config: Any
) -> None:
    """Writes ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        folder: is made if it does not exist.
        model: without candidates; its head is saved, too, if it has one.
        base: the adapted base model, with or without its adapters.
        head_modules: names of the base's head modules.
        config: further fields of the configuration, such as ``task_type``.
    """
    tensors = dict(model.tensors)
    anchor = tensors.pop(ANCHOR, None)
    heads = head_names(tensors)
    found = peft_config_for(
        model.spec, modules_to_save=sorted(head_modules) if heads else None, inference_mode=True, **config
    )
    if isinstance(found, FedLeaseConfig):
        found.anchor = None if anchor is None else anchor.tolist()
    else:
        cast(LoraConfig, found).fan_in_fan_out = keeps_weights_transposed(base, set(model.spec.target_modules))
    stock = model.spec.mixer == "none"
    # Copies, since safetensors refuses tensors that share memory, as equal tensors of one message do.
    named = {
        _key(TensorName.parse(name), stock): tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS, save(named, metadata={"format": "pt"}))
    found.save_pretrained(str(folder))


def read_adapter(folder: Path) -> ClientModel:
    """Reads a folder of :func:`write_adapter`, with our tensor names.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged or belongs to another PEFT method.
        SafetensorError: the weights are damaged.
    """
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, FedLeaseConfig | LoraConfig):
        raise ValueError(f"{CONFIG} is of the PEFT method {config.peft_type}")
    targets = config.target_modules
    if not isinstance(targets, list | set):
        raise ValueError(f"{CONFIG}: target_modules must be a list of modules, received {targets!r}")
    mixture: dict[str, Any] = {}
    anchor = None
    if isinstance(config, FedLeaseConfig):
        anchor = config.anchor
        mixture = {
            "num_experts": config.num_experts,
            "own": config.own_expert,
            "mixer": cast(Mixer, config.mixer),
            "top_k": config.top_k,
            "renormalise": config.renormalise,
            "blend": config.blend,
            "density": config.density,
            "places": config.places,
        }
    spec = AdapterSpec(config.r, config.lora_alpha, config.lora_dropout, tuple(sorted(targets)), **mixture)
    names = {_key(name, spec.mixer == "none"): str(name) for name in _names(spec)}
    tensors = load_file(folder / WEIGHTS)
    model = {
        names.get(key) or str(TensorName(HEAD, key.removeprefix(PREFIX))): tensor for key, tensor in tensors.items()
    }
    if anchor is not None:
        model[ANCHOR] = torch.tensor(anchor)
    return ClientModel(spec, model)


def _names(spec: AdapterSpec) -> Iterable[TensorName]:
    """The tensor names of an adapter with this spec."""
    for module in spec.target_modules:
        yield TensorName(module, "G")
        for expert in range(spec.num_experts):
            yield TensorName(module, "A", expert)
            yield TensorName(module, "B", expert)


def _key(name: TensorName, stock: bool) -> str:
    """PEFT's key of a tensor in a file, which for ``stock`` is that of a plain LoRA adapter."""
    if name.module == HEAD:
        return PREFIX + name.kind
    if name.kind == "G":
        return f"{PREFIX}{name.module}.fedlease_router"
    if stock:
        return f"{PREFIX}{name.module}.lora_{name.kind}.weight"
    return f"{PREFIX}{name.module}.fedlease_{name.kind}.{name.expert}"
