"""The PEFT tuner of FEDLEASE: puts routed layers in the place of linear modules."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    end_tokens: frozenset[int] = frozenset()
    """Ids that a row goes on with once its answer has ended, while ``generate`` runs."""
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

    def set_anchor(self, anchor: Tensor | None, adapter_name: str = "default") -> None:
        """Inputs are compared with it under ``instance``: a mean of unit directions, (hidden,), kept in the config."""
        config = cast(FedLeaseConfig, self.peft_config[adapter_name])
        config.anchor = None if anchor is None else anchor.tolist()

    @torch.no_grad()
    def represent(self, kwargs: Mapping[str, Any], args: Sequence[Any] = (), adapter_name: str = "default") -> Tensor:
        """Directions of inputs in the last hidden state, with expert 1 alone: (b, hidden), mean over tokens, length 1.

        Args:
            kwargs: of the base model's forward pass.
            args: likewise.
            adapter_name: an adapter with the mixer ``instance``.
        """
        # A cache that is filled here would be filled twice; whatever its argument is called.
        kwargs = {k: v for k, v in kwargs.items() if k != "logits_to_keep" and not isinstance(v, Cache)}
        # Of an encoder-decoder the encoder has read it all; its head may ask for more than a hidden state needs.
        config: Any = getattr(self.model, "config", None)
        body = cast(Any, self.model).get_encoder() if getattr(config, "is_encoder_decoder", False) else self.model
        known = inspect.signature(body.forward).parameters
        if body is not self.model:
            kwargs = {k: v for k, v in kwargs.items() if k in known}
        if "use_cache" in known:
            kwargs["use_cache"] = False
        mask = kwargs.get("attention_mask")
        if mask is not None and "position_ids" in known and "position_ids" not in kwargs and not mask[:, 0].all():
            # Padded on the left: positions count from the first token of the text, as ``generate`` counts them.
            kwargs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        before = {layer: layer.fedlease_experts[adapter_name] for layer in self._layers_of(adapter_name)}
        self.restrict((1,), adapter_name)
        try:
            hidden = body(*args, **{**kwargs, "output_hidden_states": True, "return_dict": True}).hidden_states[-1]
        finally:
            for layer, experts in before.items():
                layer.restrict(experts, adapter_name)
        mask = hidden.new_ones(hidden.shape[:2]) if mask is None else mask
        # Scaling does not turn a direction: the sum over tokens does as well as their mean.
        return nn.functional.normalize((hidden.float() * mask.float().unsqueeze(-1)).sum(1), dim=-1)

    def _weigh_instances(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a forward pass: how much of expert 1 every input gets, blend x max(0, cos to the anchors, mean)."""
        # While a text goes on from a cache, later tokens keep what its beginning was given.
        if self._weighed or any(isinstance(v, Cache) and v.get_seq_length() > 0 for v in kwargs.values()):
            return
        for name in self.active_adapters:
            config = cast(FedLeaseConfig, self.peft_config[name])
            layers = self._layers_of(name)
            # Alone, or restricted (also by ``represent`` itself): nothing is weighed.
            if config.mixer != "instance" or self.training or any(layer.fedlease_experts[name] for layer in layers):
                continue
            shares = None
            if config.anchor is not None:
                units = self.represent(kwargs, args, name)  # (b, hidden)
                # In float32 also where the caller's autocast would narrow the product.
                shares = config.blend * (units * units.new_tensor(config.anchor)).sum(-1).clamp(min=0)
            for layer in layers:
                layer.instance_shares = shares

    @contextmanager
    def weighing(self, kwargs: Mapping[str, Any]) -> Iterator[None]:
        """While it is open, every pass has the shares of this input: a text is weighed by its prompt.

        Args:
            kwargs: of the base model's forward pass, as many rows as later passes have.
        """
        self._weigh_instances(self.model, (), dict(kwargs))
        self._weighed = True
        try:
            yield
        finally:
            self._weighed = False

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Called by ``PeftModel`` around every pass, with arguments that it then takes away."""
        given = [name for name in ("adapter_names", "alora_offsets") if kwargs.get(name) is not None]
        if given:
            raise ValueError(
                f"{given[0]} is not supported by FEDLEASE, received {kwargs[given[0]]!r}: all rows of a batch use the "
                "active adapter; choose it with set_adapter, or serve rows of several clients with fedlease serve"
            )
        yield

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As the base model's ``generate``, with inputs weighed by their prompts, whatever its steps look like."""
        model = cast(Any, self.model)
        sources = [kwargs, *(vars(c) for c in (kwargs.get("generation_config"), model.generation_config) if c)]
        ends, pads = (
            _ids(next((source[name] for source in sources if source.get(name) is not None), None))
            for name in ("eos_token_id", "pad_token_id")
        )
        before, self.end_tokens = self.end_tokens, ends | pads
        try:
            if self._weighed or self._hook is None:
                return model.generate(*args, **kwargs)
            prompt = {
                k: kwargs[k] for k in ("input_ids", "inputs_embeds", "attention_mask") if kwargs.get(k) is not None
            }
            ids = args[0] if args else kwargs.get("inputs")
            if ids is not None:
                prompt["input_ids"] = ids
            ids = prompt.get("input_ids")
            if ids is not None and "attention_mask" not in prompt and pads and not pads & ends:
                # As ``generate`` reads prompts without a mask.
                prompt["attention_mask"] = (ids != min(pads)).long()
            with self.weighing(prompt):
                return model.generate(*args, **kwargs)
        finally:
            self.end_tokens = before

    def unload(self) -> nn.Module:
        """The base model without adapters."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        return super().unload()

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
