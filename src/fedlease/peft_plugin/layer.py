"""The routed layer: a frozen linear module plus M LoRA experts weighted per token, see :mod:`fedlease.core.experts`."""

import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import Tensor, nn

from fedlease.core.experts import (
    CORE_SHAPES,
    ROUTER_ROWS,
    Rule,
    add_differences,
    add_experts,
    chosen,
    directions,
    linear,
    mix,
    project,
    through,
)
from fedlease.core.sparse import count_of
from fedlease.core.types import Mixer
from fedlease.peft_plugin.config import FedLeaseConfig

__all__ = ["FedLeaseLayer", "WeightsListener"]

WeightsListener = Callable[[Tensor], None]
"""Receives the expert weights of one forward pass, (..., M)."""

UNWEIGHTED = ("none", "sum", "sparse", *CORE_SHAPES)
"""Mixers that weigh no experts against each other: all that there are count in full."""

MERGE_REFUSED = (
    "a FEDLEASE adapter cannot be merged: the weight of every expert depends on the token. "
    "fedlease.peft_plugin.export.export_expert writes one expert as an ordinary LoRA adapter, which can be merged"
)


class FedLeaseLayer(nn.Module, BaseTunerLayer):
    """y = W0 x + (alpha / r) sum over experts e of w_e(x) B_e A_e x (paper, phase 2).

    Experts are separate parameters, ``fedlease_A[adapter][e]`` (r, in) and ``fedlease_B[adapter][e]`` (out, r), so that
    each is frozen, saved and replaced by itself; a forward pass stacks them. Of the base layer only ``base_layer(x)``
    and its in and out features are assumed.

    Attributes:
        instance_shares: under the mixer ``instance`` the weight of expert 1 for every input of the batch, (b,).
        on_weights: called in evaluation with the weights of every pass that routes.
        stacks: what :meth:`stack` has computed, while parameters are known to stay as they are, see
            :meth:`fedlease.peft_plugin.model.FedLeaseModel.generate`; None stacks on every pass.
    """

    adapter_layer_names = ("fedlease_A", "fedlease_B", "fedlease_router")
    other_param_names = ("fedlease_dropout", "fedlease_rules", "fedlease_own", "fedlease_restricted")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: FedLeaseConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.fedlease_A = nn.ModuleDict()
        self.fedlease_B = nn.ModuleDict()
        self.fedlease_router = nn.ParameterDict()
        self.fedlease_dropout = nn.ModuleDict()
        self.fedlease_rules: dict[str, Rule] = {}
        self.fedlease_own: dict[str, int] = {}
        self.fedlease_restricted: dict[str, tuple[int, ...] | None] = {}
        self.instance_shares: Tensor | None = None
        self.on_weights: WeightsListener | None = None
        self.stacks: dict[str, tuple[Tensor, Tensor]] | None = None
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
        if not config.init_weights or config.mixer in ("heads", "diagonal"):
            # Nothing would ever learn where B and what stands before it are both 0.
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
        elif shape := CORE_SHAPES.get(mixer):
            core = torch.zeros(shape(config.r, config.num_experts))
            if mixer == "heads":
                core[:, 0] = 1
            self.fedlease_router[adapter_name] = nn.Parameter(core)
        elif mixer == "sparse":
            count = count_of((self.out_features, self.in_features), config.density)
            self.fedlease_router[adapter_name] = nn.Parameter(torch.zeros(count))
        self.fedlease_dropout[adapter_name] = nn.Dropout(config.lora_dropout) if config.lora_dropout else nn.Identity()
        scaling = config.lora_alpha / config.r
        self.fedlease_rules[adapter_name] = Rule(
            mixer, config.num_experts, scaling, config.top_k, config.renormalise, config.blend, config.places
        )
        self.fedlease_own[adapter_name] = config.own_expert
        self.fedlease_restricted[adapter_name] = None
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Activates adapters; only their own experts and routers are trainable."""
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        self._freeze_foreign_experts()

    def set_requires_grad(self, adapter_names: Any, requires_grad: bool = True) -> None:
        """Works as in PEFT, but experts of other clusters stay frozen."""
        super().set_requires_grad(adapter_names, requires_grad)
        self._freeze_foreign_experts()

    def set_own_expert(self, own: int, adapter_name: str) -> None:
        """Changes the own expert, which becomes trainable if the former one was.

        Raises:
            ValueError: ``own`` is not in 0 .. M - 1.
        """
        num_experts, former = self.fedlease_rules[adapter_name].num_experts, self.fedlease_own[adapter_name]
        if not 0 <= own < num_experts:
            raise ValueError(f"own expert must be in 0 .. {num_experts - 1}, received {own}")
        self.fedlease_own[adapter_name] = own
        for experts in (self.stack_a(adapter_name), self.stack_b(adapter_name)):
            experts[own].requires_grad_(experts[former].requires_grad)
        self._freeze_foreign_experts()

    def stack_a(self, adapter_name: str) -> list[Tensor]:
        """A of every expert, each (r, in)."""
        return list(cast(nn.ParameterList, self.fedlease_A[adapter_name]))

    def stack_b(self, adapter_name: str) -> list[Tensor]:
        """B of every expert, each (out, r)."""
        return list(cast(nn.ParameterList, self.fedlease_B[adapter_name]))

    def stack(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """``[A_0; ...; A_{M-1}]``, followed by G if the router reads tokens, and ``[B_0 ... B_{M-1}]``."""
        if self.stacks is not None and adapter_name in self.stacks:
            return self.stacks[adapter_name]
        tall = self.stack_a(adapter_name)
        if self.fedlease_rules[adapter_name].mixer in ROUTER_ROWS:
            tall.append(self.fedlease_router[adapter_name])
        found = torch.cat(tall), torch.cat(self.stack_b(adapter_name), 1)
        if self.fedlease_rules[adapter_name].mixer == "diagonal":
            found = directions(*found)
        if self.stacks is not None:
            self.stacks[adapter_name] = found
        return found

    def restrict(self, experts: tuple[int, ...] | None, adapter_name: str) -> None:
        """Sums only these experts, with weight 1 each, instead of using the mixer; None restores it.

        Raises:
            ValueError: an expert is not in 0 .. M - 1.
        """
        num_experts = self.fedlease_rules[adapter_name].num_experts
        if experts is not None and not set(experts) <= set(range(num_experts)):
            raise ValueError(f"experts must be in 0 .. {num_experts - 1}, received {experts}")
        self.fedlease_restricted[adapter_name] = experts

    def _freeze_foreign_experts(self) -> None:
        for name, own in self.fedlease_own.items():
            for experts in (self.stack_a(name), self.stack_b(name)):
                for expert, parameter in enumerate(experts):
                    if expert != own:
                        parameter.requires_grad_(False)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., in) -> (..., out)."""
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for adapter_name in self.active_adapters:
            if adapter_name in self.fedlease_rules:
                result = self._add_experts(result, x, adapter_name)
        return result

    def _add_experts(self, result: Tensor, x: Tensor, adapter_name: str) -> Tensor:
        rule, only = self.fedlease_rules[adapter_name], self.fedlease_restricted[adapter_name]
        stack, b = self.stack(adapter_name)
        if x.dtype != b.dtype:  # checked here, since PEFT's check takes longer than the products of one token
            x = self._cast_input_dtype(x, b.dtype)
        dropped = None
        if self.training and isinstance(dropout := self.fedlease_dropout[adapter_name], nn.Dropout):
            dropped = dropout(x).reshape(-1, self.in_features)
        # Computed after dropout, because the order of uses of x is the order in which gradients are summed.
        tokens = x.reshape(-1, self.in_features)
        seen = tokens if dropped is None else dropped
        if rule.mixer in ROUTER_ROWS and only is None:
            hidden, logits = project(tokens, stack, len(stack) - b.shape[1], dropped)
            weights = mix(logits, rule, self.fedlease_own[adapter_name])  # (tokens, M)
        else:
            hidden = linear(seen, stack[: b.shape[1]])
            if rule.mixer in CORE_SHAPES:
                hidden = through(hidden, self.fedlease_router[adapter_name], rule.mixer)
            if only is not None or rule.mixer in UNWEIGHTED:
                weights = chosen(range(rule.num_experts) if only is None else only, rule.num_experts, hidden)  # (M,)
            elif rule.mixer == "scalar":
                weights = mix(self.fedlease_router[adapter_name], rule, 0)  # (M,)
            else:
                weights = mix(self._shares(x, hidden, rule), rule, 0)  # (tokens, M) or (1, M)
        # Reentrant checkpointing makes its first pass in training mode, without gradients.
        listener = None if self.training or torch.is_grad_enabled() else self.on_weights
        if listener is not None and rule.mixer not in UNWEIGHTED and only is None:
            listener(weights.expand(len(tokens), -1).view(*x.shape[:-1], -1))
        flat = result.reshape(-1, self.out_features)
        flat = add_experts(flat, hidden, weights * rule.scaling, b)
        if rule.mixer == "sparse":
            flat = add_differences(flat, seen, self.fedlease_router[adapter_name], rule.places)
        return flat.view_as(result)

    def _shares(self, x: Tensor, hidden: Tensor, rule: Rule) -> Tensor:
        """The weight of expert 1 under the mixer ``instance``: (tokens, 1), or (1, 1) if all inputs have the same.

        Args:
            x: (inputs, ..., in).
            hidden: (tokens, M r).
            rule: the adapter's.
        """
        if self.training:
            return hidden.new_full((1, 1), rule.blend)
        if self.instance_shares is None:
            return hidden.new_zeros(1, 1)
        shares = self.instance_shares.unsqueeze(-1)
        if len(shares) == 1:
            return shares
        if x.dim() < 2 or len(x) % len(shares):
            raise ValueError(
                f"an adapted module receives {tuple(x.shape[:-1])} tokens for {len(shares)} inputs; inputs "
                "can have their own weights only if they are the first dimension in every adapted module"
            )
        # Beams, several answers to one prompt, and tokens of one input are adjacent.
        return shares.repeat_interleave(len(hidden) // len(shares), 0)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuses to merge: weights of experts differ between tokens.

        Raises:
            ValueError: always; the message names the exporter.
        """
        raise ValueError(MERGE_REFUSED)

    def unmerge(self) -> None:
        """Refuses like :meth:`merge`."""
        raise ValueError(MERGE_REFUSED)

    def __repr__(self) -> str:
        return "fedlease." + super().__repr__()


def _features(module: nn.Module) -> tuple[int, int]:
    """In and out features of a linear module, quantised or of another library."""
    features: tuple[int | None, int | None] = (
        getattr(module, "in_features", None),
        getattr(module, "out_features", None),
    )
    if isinstance(module, nn.Embedding | nn.modules.conv._ConvNd | nn.MultiheadAttention):
        features = (None, None)
    elif None in features:
        with warnings.catch_warnings():  # PEFT warns of unknown types; the error below says more.
            warnings.filterwarnings("ignore", message="Unsupported layer type", category=UserWarning)
            features = _get_in_out_features(module)
    if features[0] is None or features[1] is None:
        raise TypeError(
            f"FEDLEASE adapts linear modules, received {type(module).__name__}; set target_modules to linear ones"
        )
    return features[0], features[1]
