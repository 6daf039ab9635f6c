"""The PEFT tuner of FEDLEASE, which replaces linear modules by routed layers."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Cache

from fedlease.peft_plugin.config import FedLeaseConfig
from fedlease.peft_plugin.instance import represent, weigh
from fedlease.peft_plugin.layer import MERGE_REFUSED, FedLeaseLayer

__all__ = ["FedLeaseModel"]


def _ids(value: Any) -> frozenset[int]:
    """A token id, several, or none, as a set."""
    return frozenset() if value is None else frozenset(int(i) for i in torch.as_tensor(value).flatten())


class FedLeaseModel(BaseTuner):
    """A model whose target modules are :class:`FedLeaseLayer`; made by ``peft.get_peft_model``."""

    prefix = "fedlease_"
    tuner_layer_cls = FedLeaseLayer
    _hook: RemovableHandle | None = None
    _weighed = False
    _routed: dict[str, FedLeaseLayer] | None = None
    end_tokens: frozenset[int] = frozenset()
    """Ids of the tokens that fill a row after its end, during ``generate``."""
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
        if config.mixer == "instance" and self._hook is None:
            self._hook = self.model.register_forward_pre_hook(self._weigh_instances, with_kwargs=True)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Replaces a module as PEFT does for LoRA: only devices are matched, and the base layer keeps its weights.

        ``BaseTuner`` copies ``child.weight``, which a classification head and some quantised layers do not have.
        """
        setattr(parent, child_name, new_module)
        self._routed = None
        if isinstance(new_module, FedLeaseLayer):
            base_layer = new_module.get_base_layer()
            anchor = next(chain(base_layer.parameters(), base_layer.buffers()), None)
            for name, module in new_module.named_children():
                on_meta = any(parameter.is_meta for parameter in module.parameters())
                if anchor is not None and name.startswith(self.prefix) and not on_meta:
                    module.to(anchor.device)

    def routed_layers(self) -> dict[str, FedLeaseLayer]:
        """Module path in the base model -> routed layer, in the order of the forward pass."""
        if self._routed is None:  # searched once, since a client's turn needs them many times
            modules = self.model.named_modules()
            self._routed = {name: module for name, module in modules if isinstance(module, FedLeaseLayer)}
        return self._routed

    def set_own_expert(self, own: int, adapter_name: str = "default") -> None:
        """Changes the own expert in every layer of an adapter."""
        for layer in self._layers_of(adapter_name):
            layer.set_own_expert(own, adapter_name)
        cast(FedLeaseConfig, self.peft_config[adapter_name]).own_expert = own

    def restrict(self, experts: tuple[int, ...] | None, adapter_name: str = "default") -> None:
        """Restricts every layer of an adapter to these experts, with weight 1 each; None restores routing."""
        for layer in self._layers_of(adapter_name):
            layer.restrict(experts, adapter_name)

    def set_anchor(self, anchor: Tensor | None, adapter_name: str = "default") -> None:
        """Sets the anchor of the mixer ``instance`` in the config: a mean of unit directions, (hidden,)."""
        config = cast(FedLeaseConfig, self.peft_config[adapter_name])
        config.anchor = None if anchor is None else anchor.tolist()

    def represent(self, inputs: Mapping[str, Any], adapter_name: str = "default") -> Tensor:
        """Directions of inputs under the mixer ``instance``, see :func:`fedlease.peft_plugin.instance.represent`."""
        return represent(self.model, self._layers_of(adapter_name), adapter_name, inputs)

    def _weigh_instances(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called before every forward pass of the base model."""
        # Tokens that continue from a cache keep the weights of the text's beginning.
        cached = any(isinstance(v, Cache) and v.get_seq_length() > 0 for v in kwargs.values())
        if self.training or self._weighed or cached:
            return
        for name in self.active_adapters:
            weigh(self.model, self._layers_of(name), name, cast(FedLeaseConfig, self.peft_config[name]), kwargs, args)

    @contextmanager
    def weighing(self, kwargs: Mapping[str, Any]) -> Iterator[None]:
        """Weighs this input now and applies its weights to every pass while the context is open.

        Args:
            kwargs: arguments of the base model's forward pass, with as many rows as later passes have.
        """
        self._weigh_instances(self.model, (), dict(kwargs))
        self._weighed = True
        try:
            yield
        finally:
            self._weighed = False

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Refuses arguments that ``PeftModel`` would otherwise ignore."""
        given = [name for name in ("adapter_names", "alora_offsets") if kwargs.get(name) is not None]
        if given:
            raise ValueError(
                f"{given[0]} is not supported by FEDLEASE, received {kwargs[given[0]]!r}: all rows of a batch use the "
                "active adapter; choose it with set_adapter, or serve rows of several clients with fedlease serve"
            )
        yield

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the base model's ``generate``, with the weights of inputs computed from their prompts.

        Experts are stacked once for all steps, since no step changes a parameter.
        """
        model = cast(Any, self.model)
        sources = [kwargs, *(vars(c) for c in (kwargs.get("generation_config"), model.generation_config) if c)]
        ends, pads = (
            _ids(next((source[name] for source in sources if source.get(name) is not None), None))
            for name in ("eos_token_id", "pad_token_id")
        )
        layers = self.routed_layers().values()
        before, self.end_tokens = self.end_tokens, ends | pads
        try:
            with self._weighing_prompts(args, kwargs, ends, pads):
                for layer in layers:
                    layer.stacks = {}
                return model.generate(*args, **kwargs)
        finally:
            self.end_tokens = before
            for layer in layers:
                layer.stacks = None

    def _weighing_prompts(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], ends: frozenset[int], pads: frozenset[int]
    ) -> AbstractContextManager[None]:
        """:meth:`weighing` for the prompts among the arguments of ``generate``, where inputs are weighed."""
        if self._weighed or self._hook is None:
            return nullcontext()
        names = ("input_ids", "inputs_embeds", "attention_mask")
        prompt = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        ids = args[0] if args else kwargs.get("inputs")
        if ids is not None:
            prompt["input_ids"] = ids
        ids = prompt.get("input_ids")
        if ids is not None and "attention_mask" not in prompt and pads and not pads & ends:
            # ``generate`` reads prompts without a mask in this way.
            prompt["attention_mask"] = (ids != min(pads)).long()
        return self.weighing(prompt)

    def unload(self) -> nn.Module:
        """The base model without adapters."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        return super().unload()

    def _layers_of(self, adapter_name: str) -> list[FedLeaseLayer]:
        """The layers with an adapter; adapters of one model may be on different modules."""
        if adapter_name not in self.peft_config:
            raise ValueError(f"no adapter {adapter_name!r}, this model has {sorted(self.peft_config)}")
        return [layer for layer in self.routed_layers().values() if adapter_name in layer.fedlease_rules]

    def _check_merge_allowed(self) -> None:
        raise ValueError(MERGE_REFUSED)
