"""One expert of a mixture as an ordinary LoRA folder that stock PEFT reads without fedlease."""

from pathlib import Path

from peft import PeftModel
from peft.utils import ModulesToSaveWrapper

from fedlease.core.folding import expert_alone
from fedlease.core.types import HEAD, AdapterSpec, ClientModel, TensorName
from fedlease.peft_plugin.config import FedLeaseConfig
from fedlease.peft_plugin.folder import write_adapter
from fedlease.peft_plugin.state import adapter_parameters

__all__ = ["export_expert"]


def export_expert(model: PeftModel, expert: int, folder: Path, adapter_name: str = "default") -> None:
    """Writes one expert of a mixture, with its trained classifier (``modules_to_save``) if there is one.

    Args:
        model: with a FEDLEASE adapter.
        expert: in 0 .. M - 1.
        folder: is made if it does not exist.
        adapter_name: name of the mixture in ``model``.

    Raises:
        ValueError: the adapter is not a FEDLEASE adapter, or has no such expert.
    """
    config = model.peft_config[adapter_name]
    if not isinstance(config, FedLeaseConfig):
        raise ValueError(f"adapter {adapter_name!r} is {type(config).__name__}, expected FedLeaseConfig")
    parameters = adapter_parameters(model, adapter_name)
    targets = tuple(sorted({TensorName.parse(name).module for name in parameters}))
    spec = AdapterSpec(config.r, config.lora_alpha, config.lora_dropout, targets, config.num_experts)
    base = model.get_base_model()
    heads = {
        str(TensorName(HEAD, f"{path}.{key}")): value
        for path, module in base.named_modules()
        if isinstance(module, ModulesToSaveWrapper) and adapter_name in module.modules_to_save
        for key, value in module.modules_to_save[adapter_name].state_dict().items()
    }
    write_adapter(
        folder,
        expert_alone(ClientModel(spec, {**parameters, **heads}), expert),
        base,
        config.modules_to_save or (),
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
    )
