"""One adapter as an ordinary LoRA folder that stock PEFT reads without fedlease."""

from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import save

from fedlease.core.types import HEAD, TensorName, Tensors
from fedlease.files import write_atomically
from fedlease.peft_plugin.config import FedLeaseConfig
from fedlease.peft_plugin.state import adapter_parameters, keeps_weights_transposed

__all__ = ["export_expert", "write_lora"]


def write_lora(folder: Path, tensors: Tensors, **config: Any) -> None:
    """Writes ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        folder: made when missing.
        tensors: A and B of one expert, and the head's where it is to be saved, under our names.
        config: fields of ``LoraConfig`` other than ``target_modules``.
    """
    written, targets = {}, set()
    for name, tensor in tensors.items():
        parsed = TensorName.parse(name)
        path = parsed.kind if parsed.module == HEAD else f"{parsed.module}.lora_{parsed.kind}.weight"
        written[f"base_model.model.{path}"] = tensor.detach().cpu().clone()
        if parsed.expert is not None:
            targets.add(parsed.module)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "adapter_model.safetensors", save(written, metadata={"format": "pt"}))
    LoraConfig(target_modules=sorted(targets), inference_mode=True, **config).save_pretrained(str(folder))


def export_expert(model: PeftModel, expert: int, folder: Path, adapter_name: str = "default") -> None:
    """Writes one expert of a mixture, with its trained classifier (``modules_to_save``) where there is one.

    Args:
        model: with a FEDLEASE adapter.
        expert: in 0 .. M - 1.
        folder: made when missing.
        adapter_name: of the mixture in ``model``.

    Raises:
        ValueError: the adapter is not a FEDLEASE adapter, or there is no such expert.
    """
    config = model.peft_config[adapter_name]
    if not isinstance(config, FedLeaseConfig):
        raise ValueError(f"adapter {adapter_name!r} is {type(config).__name__}, expected FedLeaseConfig")
    if not 0 <= expert < config.num_experts:
        raise ValueError(f"expert must be in 0 .. {config.num_experts - 1}, received {expert}")
    parameters = adapter_parameters(model, adapter_name)
    tensors = {name: p for name, p in parameters.items() if TensorName.parse(name).expert == expert}
    base = model.get_base_model()
    for path, module in base.named_modules():
        if isinstance(module, ModulesToSaveWrapper) and adapter_name in module.modules_to_save:
            for key, value in module.modules_to_save[adapter_name].state_dict().items():
                tensors[str(TensorName(HEAD, f"{path}.{key}"))] = value
    write_lora(
        folder,
        tensors,
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        modules_to_save=config.modules_to_save,
        fan_in_fan_out=keeps_weights_transposed(base, {TensorName.parse(name).module for name in parameters}),
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
    )
