"""The configuration of the PEFT method FEDLEASE."""

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import get_args

from peft.config import PeftConfig

from fedlease.core.experts import FIXED
from fedlease.core.types import Mixer
from fedlease.peft_plugin.peft_type import FEDLEASE

__all__ = ["FedLeaseConfig"]


@dataclass
class FedLeaseConfig(PeftConfig):
    """M LoRA experts and a router in every adapted module; one expert is the client's own.

    Only the own expert, the router and ``modules_to_save`` are trainable.

    Attributes:
        r: LoRA rank, at least 1.
        lora_alpha: updates are scaled by lora_alpha / r.
        lora_dropout: in [0, 1), on the input of the experts; the router sees the input before it.
        num_experts: M, at least 1.
        own_expert: in 0 .. M - 1.
        target_modules: name endings, or a regular expression; None takes PEFT's LoRA default for the architecture.
        exclude_modules: not adapted although ``target_modules`` matches.
        mixer: ``top_m`` (paper, phase 2); ``softmax`` over all experts; ``scalar`` (M = 2, one learned weight per
            module); ``instance`` (M = 2, one weight per input, by its similarity to ``anchor``); ``sum`` (all of them,
            weight 1 each); ``core`` (M = 1, a matrix of r x r between A and B, which starts at 0); ``heads`` (all of
            them, a matrix and a scale in each); ``diagonal`` (M = 1, directions of length 1 and a scale for each, which
            starts at 0); ``sparse`` (M = 1, and beside it sparse differences to the frozen weights, which start at 0);
            or ``none`` for M = 1: plain LoRA. With one expert, ``top_m`` and ``softmax`` are plain LoRA, too, without a
            router.
        top_k: router slots kept; None keeps M.
        renormalise: whether kept weights are scaled to sum 1.
        blend: in [0, 1], largest weight of expert 1 under ``instance``.
        density: under ``sparse``, the share of a module's weights that have a difference, in (0, 1].
        places: seed of their positions, at least 0.
        anchor: mean direction that inputs are compared with under ``instance``; None uses expert 0 alone.
        modules_to_save: further modules that are trained and saved, such as a classifier.
        layers_to_transform: only these layer numbers.
        layers_pattern: name of the layer list, if ``layers_to_transform`` needs it.
        init_weights: whether B starts at 0, so that a new adapter changes nothing; False draws every B at random, which
            PEFT's own tests need.

    Raises:
        ValueError: values have a wrong type or are out of range; each line names a parameter and its value.
    """

    r: int = 8
    lora_alpha: float = 16
    lora_dropout: float = 0.0
    num_experts: int = 4
    own_expert: int = 0
    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    mixer: str = "top_m"
    top_k: int | None = None
    renormalise: bool = True
    blend: float = 0.5
    density: float = 1.0
    places: int = 0
    anchor: list[float] | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = field(default=None)
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = FEDLEASE
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if isinstance(value, list):
                setattr(self, name, set(value))
        if faults := self._wrong_kinds() or self._out_of_range():
            raise ValueError("\n".join(faults))

    def _wrong_kinds(self) -> list[str]:
        """Faults of values with a wrong type, as a file by someone else may have."""
        anchor = self.anchor
        whole = anchor is None or (isinstance(anchor, list) and all(map(_is_number, anchor)))
        faults = [] if whole else [f"anchor must be None or a list of finite numbers, received {anchor!r}"]
        for name in ("r", "num_experts", "own_expert", "top_k", "places"):
            value = getattr(self, name)
            if not (_is_number(value) and isinstance(value, Integral)) and (name, value) != ("top_k", None):
                faults.append(f"{name} must be a whole number, received {value!r}")
        for name in ("lora_alpha", "lora_dropout", "blend", "density"):
            # NaN and infinity are numbers; their range is checked later.
            if not isinstance(value := getattr(self, name), Real) or isinstance(value, bool):
                faults.append(f"{name} must be a number, received {value!r}")
        for name in ("renormalise", "init_weights"):
            if not isinstance(value := getattr(self, name), bool):
                faults.append(f"{name} must be True or False, received {value!r}")
        return faults

    def _out_of_range(self) -> list[str]:
        slots = 2 * self.num_experts - 1
        rules = {
            "r": (self.r >= 1, "at least 1"),
            "lora_alpha": (0 < self.lora_alpha < math.inf, "above 0 and finite"),
            "lora_dropout": (0 <= self.lora_dropout < 1, "in [0, 1)"),
            "num_experts": (self.num_experts >= 1, "at least 1"),
            "own_expert": (0 <= self.own_expert < max(self.num_experts, 1), f"in 0 .. {self.num_experts - 1}"),
            "mixer": (self.mixer in get_args(Mixer), f"one of {', '.join(get_args(Mixer))}"),
            "blend": (0 <= self.blend <= 1, "in [0, 1]"),
            "density": (0 < self.density <= 1, "in (0, 1]"),
            "places": (self.places >= 0, "at least 0"),
            "top_k": (self.top_k is None or 1 <= self.top_k <= slots, f"None or in 1 .. {slots}"),
        }
        faults = [
            f"{name} must be {rule}, received {getattr(self, name)!r}"
            for name, (holds, rule) in rules.items()
            if not holds
        ]
        needed = FIXED.get(str(self.mixer), self.num_experts)
        if self.num_experts != needed:
            faults.append(f"mixer {self.mixer!r} needs num_experts = {needed}, received {self.num_experts}")
        return faults


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
