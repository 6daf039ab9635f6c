"""The routed layer: a frozen linear module plus M LoRA experts weighted per token, in two matrix products."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import Tensor, nn

from fedlease.core.routing import mix, num_slots
from fedlease.core.types import Mixer
from fedlease.peft_plugin.config import FedLeaseConfig

__all__ = ["FedLeaseLayer", "WeightsListener"]

WeightsListener = Callable[[Tensor], None]
"""Receives the expert weights of one forward pass, (..., M)."""

MERGE_REFUSED = (
    "a FEDLEASE adapter cannot be merged: the weight of every expert depends on the token. "
    "fedlease.peft_plugin.export.export_expert writes one expert as an ordinary LoRA adapter, which can be merged"
)


@dataclass(frozen=True)
class _Settings:
    """What one adapter of a layer needs beside its parameters."""

    num_experts: int
    own: int
    scaling: float
    mixer: Mixer
    top_k: int | None
    renormalise: bool
    blend: float


ROUTER_ROWS: dict[Mixer, Callable[[int], int]] = {"top_m": num_slots, "softmax": lambda m: m}
"""Mixers that look at every token -> rows of G for M experts."""


def _features(module: nn.Module) -> tuple[int, int]:
    """In and out features of a linear module, a quantised or foreign one included."""
    features: tuple[int | None, int | None] = (
        getattr(module, "in_features", None),
        getattr(module, "out_features", None),
    )
    if isinstance(module, nn.Embedding | nn.modules.conv._ConvNd | nn.MultiheadAttention):
        features = (None, None)
    elif None in features:
        with warnings.catch_warnings():  # PEFT warns of every type it does not know; the error below says more.
            warnings.filterwarnings("ignore", message="Unsupported layer type", category=UserWarning)
            features = _get_in_out_features(module)
    if features[0] is None or features[1] is None:
        raise TypeError(
            f"FEDLEASE adapts linear modules, received {type(module).__name__}; set target_modules to linear ones"
        )
    return features[0], features[1]


class FedLeaseLayer(nn.Module, BaseTunerLayer):
    """y = W0 x + (alpha / r) sum over experts e of w_e(x) B_e A_e x (paper, phase 2).

    Experts are kept apart, ``fedlease_A[adapter][e]`` (r, in) and ``fedlease_B[adapter][e]`` (out, r), so that each is
    frozen, saved and replaced by itself; the forward pass stacks them, which costs nothing beside the products.
    Of the base layer only ``base_layer(x)`` and its in and out features are assumed.
    """

    adapter_layer_names = ("fedlease_A", "fedlease_B", "fedlease_router")
    other_param_names = ("fedlease_dropout", "fedlease_settings", "fedlease_experts")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: FedLeaseConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.fedlease_A = nn.ModuleDict()
        self.fedlease_B = nn.ModuleDict()
        self.fedlease_router = nn.ParameterDict()
        self.fedlease_dropout = nn.ModuleDict()
        self.fedlease_settings: dict[str, _Settings] = {}
        self.fedlease_experts: dict[str, tuple[int, ...] | None] = {}
        self.instance_shares: Tensor | None = None
        self.on_weights: WeightsListener | None = None
        self.in_features, self.out_features = _features(self.get_base_layer())
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: FedLeaseConfig, inference_mode: bool = False) -> None:
        """Adds an adapter: A and router Kaiming-uniform, A the same for all experts; B zero, or drawn likewise."""
        limit = min(self.in_features, self.out_features)
        if config.r > limit:
            raise ValueError(f"r must be at most the layer's smaller side, {limit}, received {config.r}")
        first = nn.init.kaiming_uniform_(torch.empty(config.r, self.in_features), a=math.sqrt(5))
        self.fedlease_A[adapter_name] = nn.ParameterList(nn.Parameter(first.clone()) for _ in range(config.num_experts))
        b = [torch.zeros(self.out_features, config.r) for _ in range(config.num_experts)]
        if not config.init_weights:
            b = [nn.init.kaiming_uniform_(start, a=math.sqrt(5)) for start in b]
        self.fedlease_B[adapter_name] = nn.ParameterList(map(nn.Parameter, b))
        mixer = cast(Mixer, config.mixer)
        if mixer in ROUTER_ROWS and config.num_experts == 1:
            mixer = "none"  # nothing to choose among: a router would never learn
        if rows := ROUTER_ROWS.get(mixer):
            router = torch.empty(rows(config.num_experts), self.in_features)
            self.fedlease_router[adapter_name] = nn.Parameter(nn.init.kaiming_uniform_(router, a=math.sqrt(5)))
        elif mixer == "scalar":
            self.fedlease_router[adapter_name] = nn.Parameter(torch.zeros(1))
        self.fedlease_dropout[adapter_name] = (
            nn.Dropout(config.lora_dropout) if config.lora_dropout > 0 else nn.Identity()
        )
        self.fedlease_settings[adapter_name] = _Settings(
            num_experts=config.num_experts,
            own=config.own_expert,
            scaling=config.lora_alpha / config.r,
            mixer=mixer,
            top_k=config.top_k,
            renormalise=config.renormalise,
            blend=config.blend,
        )
        self.fedlease_experts[adapter_name] = None
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Makes adapters active; of the active ones only own expert and router are trainable."""
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        self._freeze_foreign_experts()

    def set_requires_grad(self, adapter_names: Any, requires_grad: bool = True) -> None:
        """As PEFT's, but experts of others stay frozen."""
        super().set_requires_grad(adapter_names, requires_grad)
        self._freeze_foreign_experts()

    def set_own_expert(self, own: int, adapter_name: str) -> None:
        """Changes which expert is the client's own; it becomes trainable where the former one was.

        Raises:
            ValueError: not in 0 .. M - 1.
        """
        settings = self.fedlease_settings[adapter_name]
        if not 0 <= own < settings.num_experts:
            raise ValueError(f"own expert must be in 0 .. {settings.num_experts - 1}, received {own}")
        self.fedlease_settings[adapter_name] = replace(settings, own=own)
        for stack in (self.stack_a(adapter_name), self.stack_b(adapter_name)):
            stack[own].requires_grad_(stack[settings.own].requires_grad)
        self._freeze_foreign_experts()

    def stack_a(self, adapter_name: str) -> list[Tensor]:
        """A of every expert, M times (r, in)."""
        return list(cast(nn.ParameterList, self.fedlease_A[adapter_name]))

    def stack_b(self, adapter_name: str) -> list[Tensor]:
        """B of every expert, M times (out, r)."""
        return list(cast(nn.ParameterList, self.fedlease_B[adapter_name]))

    def restrict(self, experts: tuple[int, ...] | None, adapter_name: str) -> None:
        """Sums just these experts, weight 1 each and without routing; None goes back to the mixer.

        Raises:
            ValueError: an expert is not in 0 .. M - 1.
        """
        num_experts = self.fedlease_settings[adapter_name].num_experts
        if experts is not None and not set(experts) <= set(range(num_experts)):
            raise ValueError(f"experts must be in 0 .. {num_experts - 1}, received {experts}")
        self.fedlease_experts[adapter_name] = experts

    def _freeze_foreign_experts(self) -> None:
        for name, settings in self.fedlease_settings.items():
            for stack in (self.stack_a(name), self.stack_b(name)):
                for expert, parameter in enumerate(stack):
                    if expert != settings.own:
                        parameter.requires_grad_(False)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., in) -> (..., out)."""
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for adapter_name in self.active_adapters:
            if adapter_name in self.fedlease_A:
                result = self._add_experts(result, x, adapter_name)
        return result

    def _add_experts(self, result: Tensor, x: Tensor, adapter_name: str) -> Tensor:
        settings = self.fedlease_settings[adapter_name]
        a = self.stack_a(adapter_name)  # M times (r, in)
        b = torch.cat(self.stack_b(adapter_name), 1)  # (out, M r)
        dropout = self.fedlease_dropout[adapter_name]
        only = self.fedlease_experts[adapter_name]
        x = self._cast_input_dtype(x, b.dtype)
        if settings.mixer not in ROUTER_ROWS or only is not None:
            hidden = F.linear(dropout(x), torch.cat(a))  # (..., M r)
            weights = self._tokenless_weights(hidden, only, adapter_name)  # (M,), or (b, 1 .., M)
        else:
            router = self.fedlease_router[adapter_name]  # (2M - 1, in)
            dropping = self.training and isinstance(dropout, nn.Dropout)
            if dropping or x.dtype != torch.float32 or torch.is_autocast_enabled(x.device.type):
                hidden = F.linear(dropout(x), torch.cat(a))
                # The selection is a comparison of logits: in 16 bits near ties would flip.
                with torch.autocast(x.device.type, enabled=False):
                    logits = F.linear(x.float(), router.float())
            else:
                stacked = F.linear(x, torch.cat([*a, router]))  # one product: (..., M r + 2M - 1)
                hidden, logits = stacked.split([b.shape[1], len(router)], -1)
            weights = mix(logits, settings.mixer, settings.own, settings.renormalise, settings.top_k)  # (..., M)
        # Reentrant checkpointing runs its first pass without gradients, but in training mode.
        listener = None if self.training or torch.is_grad_enabled() else self.on_weights
        if listener is not None and settings.mixer != "none" and only is None:
            listener(weights.expand(*x.shape[:-1], settings.num_experts))
        weights = (weights * settings.scaling).to(hidden.dtype)
        hidden = (hidden.unflatten(-1, (settings.num_experts, -1)) * weights.unsqueeze(-1)).flatten(-2)
        if hidden.dtype == b.dtype == result.dtype and result.dim() > 1:
            # Adds while multiplying: one pass over (..., out) less than product, then sum.
            return torch.addmm(result.flatten(0, -2), hidden.flatten(0, -2), b.T).view_as(result)
        return result + F.linear(hidden, b).to(result.dtype)

    def _tokenless_weights(self, hidden: Tensor, only: tuple[int, ...] | None, adapter_name: str) -> Tensor:
        """Weights that no token changes; (b, 1 .., M) where they differ from input to input, else (M,)."""
        settings = self.fedlease_settings[adapter_name]
        if settings.mixer == "scalar" and only is None:
            return mix(self.fedlease_router[adapter_name], "scalar", settings.own)
        if settings.mixer == "instance" and only is None:
            share = torch.full((1,), settings.blend, dtype=hidden.dtype, device=hidden.device)
            if not self.training:
                share = torch.zeros_like(share) if self.instance_shares is None else self.instance_shares
                if len(share) > 1 and (hidden.dim() < 2 or hidden.shape[0] % len(share)):
                    raise ValueError(
                        f"an adapted module receives {tuple(hidden.shape[:-1])} tokens for {len(share)} inputs; inputs "
                        "can be weighed by themselves only where they come first in every adapted module"
                    )
                # Beams and several answers to one prompt stand side by side.
                share = share.repeat_interleave(max(1, hidden.shape[0] // len(share))) if len(share) > 1 else share
                share = share.view(-1, *[1] * (hidden.dim() - 1))
            return torch.cat([1 - share, share], -1)
        chosen = range(settings.num_experts) if only is None else only
        flags = [float(e in chosen) for e in range(settings.num_experts)]
        return torch.tensor(flags, dtype=hidden.dtype, device=hidden.device)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused.

        Raises:
            ValueError: always; the message names the exporter.
        """
        raise ValueError(MERGE_REFUSED)

    def unmerge(self) -> None:
        """Refused, like :meth:`merge`."""
        raise ValueError(MERGE_REFUSED)

    def __repr__(self) -> str:
        return "fedlease." + super().__repr__()
