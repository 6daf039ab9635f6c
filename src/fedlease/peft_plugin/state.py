"""The parameters of a PEFT model by our tensor names, taken from its layers."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedlease.core.types import HEAD, AdapterSpec, TensorName, Tensors
from fedlease.peft_plugin.config import FedLeaseConfig
from fedlease.peft_plugin.layer import FedLeaseLayer

__all__ = [
    "adapter_parameters",
    "copy_into",
    "head_parameters",
    "keeps_weights_transposed",
    "peft_config_for",
    "snapshot",
    "wrap",
]


def peft_config_for(spec: AdapterSpec, **extra: Any) -> PeftConfig:
    """The PEFT configuration of a spec: ``LoraConfig`` for a single adapter, ``FedLeaseConfig`` for a mixture.

    Args:
        spec: the adapter.
        extra: further fields, such as ``task_type`` or ``modules_to_save``.
    """
    common: dict[str, Any] = {
        "r": spec.r,
        "lora_alpha": spec.alpha,
        "lora_dropout": spec.dropout,
        "target_modules": list(spec.target_modules),
        **extra,
    }
    if spec.mixer == "none":
        return LoraConfig(**common)
    return FedLeaseConfig(
        num_experts=spec.num_experts,
        own_expert=spec.own,
        mixer=spec.mixer,
        top_k=spec.top_k,
        renormalise=spec.renormalise,
        blend=spec.blend,
        density=spec.density,
        places=spec.places,
        **common,
    )


def keeps_weights_transposed(base: nn.Module, targets: Iterable[str]) -> bool:
    """Whether an adapted module stores its weight as (in, out), as GPT-2 does, which matters when LoRA is merged.

    Args:
        base: the base model, with or without adapters.
        targets: paths of modules.
    """
    modules = dict(base.named_modules())
    for path in targets:
        module = modules.get(path)
        module = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        # A quantised layer has the class that it was made from as an attribute.
        if isinstance(module, Conv1D) or getattr(module, "source_cls", None) is Conv1D:
            return True
    return False


def wrap(model: nn.Module, config: PeftConfig) -> PeftModel:
    """Calls ``peft.get_peft_model`` without a warning that PEFT causes in newer versions of transformers.

    Sets ``fan_in_fan_out`` of a ``LoraConfig`` with a list of modules, see :func:`keeps_weights_transposed`.
    """
    if isinstance(config, LoraConfig) and isinstance(config.target_modules, set | list):
        config.fan_in_fan_out = keeps_weights_transposed(model, config.target_modules)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        wrapped = get_peft_model(model, config)
    assert isinstance(wrapped, PeftModel)
    return wrapped


def adapter_parameters(model: PeftModel, adapter_name: str = "default") -> dict[str, nn.Parameter]:
    """Our name -> parameter of a LoRA or FEDLEASE adapter, in the order of the modules."""
    found: dict[str, nn.Parameter] = {}
    for module, layer in model.get_base_model().named_modules():
        if isinstance(layer, FedLeaseLayer) and adapter_name in layer.fedlease_A:
            for kind, stack in (("A", layer.stack_a(adapter_name)), ("B", layer.stack_b(adapter_name))):
                for expert, parameter in enumerate(stack):
                    found[str(TensorName(module, kind, expert))] = cast(nn.Parameter, parameter)
            if adapter_name in layer.fedlease_router:
                found[str(TensorName(module, "G"))] = layer.fedlease_router[adapter_name]
        elif isinstance(layer, LoraLayer) and adapter_name in layer.lora_A:
            found[str(TensorName(module, "A", 0))] = cast(nn.Parameter, layer.lora_A[adapter_name].weight)
            found[str(TensorName(module, "B", 0))] = cast(nn.Parameter, layer.lora_B[adapter_name].weight)
    return found


def head_parameters(model: nn.Module, head_modules: Iterable[str]) -> dict[str, nn.Parameter]:
    """Our name -> parameter of the head modules of a base model, or of their trained copies in a PEFT model."""
    found: dict[str, nn.Parameter] = {}
    for name in head_modules:
        module = model.get_submodule(name)
        active = getattr(module, "modules_to_save", None)
        module = active["default"] if active is not None else module
        for path, parameter in module.named_parameters():
            found[f"{HEAD}/{name}.{path}"] = parameter
    return found


@torch.no_grad()
def copy_into(parameters: Mapping[str, nn.Parameter], tensors: Tensors) -> None:
    """Copies values into the parameters of the same names.

    Raises:
        ValueError: a name is missing or unknown, or a shape differs; nothing is copied.
    """
    if parameters.keys() != tensors.keys():
        missing, extra = sorted(parameters.keys() - tensors.keys()), sorted(tensors.keys() - parameters.keys())
        raise ValueError(f"tensors do not fit the model: missing {missing}, unknown {extra}")
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(parameter.shape)}")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def snapshot(parameters: Mapping[str, nn.Parameter], names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Copies of parameters on the CPU, sorted by name."""
    return {name: parameters[name].detach().to("cpu", copy=True) for name in sorted(names)}
