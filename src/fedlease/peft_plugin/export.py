"""One expert as an ordinary LoRA folder that stock PEFT reads without fedlease."""

from pathlib import Path

from peft import LoraConfig, PeftModel
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from fedlease.core.types import TensorName
from fedlease.peft_plugin.config import FedLeaseConfig
from fedlease.peft_plugin.layer import FedLeaseLayer
from fedlease.peft_plugin.state import adapter_parameters

__all__ = ["export_expert"]


def export_expert(model: PeftModel, expert: int, folder: Path, adapter_name: str = "default") -> None:
    """Writes ``adapter_config.json`` and ``adapter_model.safetensors`` of one expert.

    A trained classifier (``modules_to_save``) goes along, for a causal model there is none.

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
    tensors, targets = {}, []
    for name, parameter in adapter_parameters(model, adapter_name).items():
        parsed = TensorName.parse(name)
        if parsed.expert == expert:
            tensors[f"base_model.model.{parsed.module}.lora_{parsed.kind}.weight"] = parameter.detach().cpu().clone()
            targets.append(parsed.module)
    conv1d = False  # GPT-2 keeps its weights transposed, and LoRA must know before it merges
    for path, module in model.get_base_model().named_modules():
        if isinstance(module, ModulesToSaveWrapper) and adapter_name in module.modules_to_save:
            for key, value in module.modules_to_save[adapter_name].state_dict().items():
                tensors[f"base_model.model.{path}.{key}"] = value.detach().cpu().clone()
        elif isinstance(module, FedLeaseLayer) and path in targets:
            conv1d = conv1d or isinstance(module.get_base_layer(), Conv1D)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=sorted(set(targets)),
        modules_to_save=config.modules_to_save,
        fan_in_fan_out=conv1d,
        task_type=config.task_type,
        inference_mode=True,
        base_model_name_or_path=config.base_model_name_or_path,
    ).save_pretrained(str(folder))
