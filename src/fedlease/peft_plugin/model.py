"""The PEFT tuner of FEDLEASE: puts routed layers in the place of linear modules."""

from itertools import chain
from typing import Any, cast

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from fedlease.peft_plugin.config import FedLeaseConfig
from fedlease.peft_plugin.layer import MERGE_REFUSED, FedLeaseLayer

__all__ = ["FedLeaseModel"]


class FedLeaseModel(BaseTuner):
    """A model whose target modules are :class:`FedLeaseLayer`; made by ``peft.get_peft_model``."""

    prefix = "fedlease_"
    tuner_layer_cls = FedLeaseLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING  # type: ignore[assignment]

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        config = cast(FedLeaseConfig, peft_config)
        try:
            if isinstance(target, FedLeaseLayer):
                target.update_layer(adapter_name, config, inference_mode=config.inference_mode)
                return
            layer = FedLeaseLayer(target, adapter_name, config)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{current_key}: {error}") from error
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """As PEFT does it for LoRA: only devices are matched, the base layer keeps its own weights, if it has any.

        ``BaseTuner`` copies ``child.weight``, which a classification head and some quantised layers do not have.
        """
        setattr(parent, child_name, new_module)
        if isinstance(new_module, FedLeaseLayer):
            base_layer = new_module.get_base_layer()
            anchor = next(chain(base_layer.parameters(), base_layer.buffers()), None)
            for name, module in new_module.named_children():
                on_meta = any(parameter.is_meta for parameter in module.parameters())
                if anchor is not None and name.startswith(self.prefix) and not on_meta:
                    module.to(anchor.device)

    def routed_layers(self) -> dict[str, FedLeaseLayer]:
        """Module path in the base model -> routed layer, in the order of the forward pass."""
        return {name: module for name, module in self.model.named_modules() if isinstance(module, FedLeaseLayer)}

    def set_own_expert(self, own: int, adapter_name: str = "default") -> None:
        """Changes the own expert in every layer of an adapter."""
        for layer in self._layers_of(adapter_name):
            layer.set_own_expert(own, adapter_name)
        cast(FedLeaseConfig, self.peft_config[adapter_name]).own_expert = own

    def restrict(self, experts: tuple[int, ...] | None, adapter_name: str = "default") -> None:
        """In every layer of an adapter: just these experts, weight 1 each; None goes back to routing."""
        for layer in self._layers_of(adapter_name):
            layer.restrict(experts, adapter_name)

    def _layers_of(self, adapter_name: str) -> list[FedLeaseLayer]:
        """Adapters of one model may sit on different modules."""
        if adapter_name not in self.peft_config:
            raise ValueError(f"no adapter {adapter_name!r}, this model has {sorted(self.peft_config)}")
        return [layer for layer in self.routed_layers().values() if adapter_name in layer.fedlease_settings]

    def _check_merge_allowed(self) -> None:
        raise ValueError(MERGE_REFUSED)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Refused.

        Raises:
            ValueError: always; the message names the exporter.
        """
        raise ValueError(MERGE_REFUSED)
