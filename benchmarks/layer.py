"""The routed layer against a plain LoRA layer, the frozen linear module alone, and a loop over ranks and experts.

    python benchmarks/layer.py [--smoke] [--json FILE]

Forward and backward, with gradients to own A and B, router and input. The frozen linear module's forward and input
gradient is the floor: no adapter can be cheaper.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import cast

import torch
import torch.nn.functional as F
from measure import Times, interleave, peak_tensor_bytes, use_all_cores
from output import Report, Table, Target, at_least, at_most, entry
from peft import LoraConfig
from peft.tuners.lora import Linear as PlainLora
from torch import Tensor, nn

from fedlease.peft_plugin import FedLeaseConfig, FedLeaseLayer

ADAPTER = "default"
DROPOUT = 0.1
VARIANTS = ("floor", "plain", "routed", "loop")


class PairLoop(nn.Module):
    """The same sum by two loops: one masked LoRA product for every kept rank and every expert, M x M in total.

    It uses the parameters of a routed layer, so that both compute the same numbers.
    """

    def __init__(self, layer: FedLeaseLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        rule, own = layer.fedlease_rules[ADAPTER], layer.fedlease_own[ADAPTER]
        a, b, router = layer.stack_a(ADAPTER), layer.stack_b(ADAPTER), layer.fedlease_router[ADAPTER]
        others = [expert for expert in range(rule.num_experts) if expert != own]
        expert_of_slot = torch.tensor([own] * rule.num_experts + others)
        best = F.linear(x, router).topk(rule.num_experts, dim=-1)  # of 2M - 1 slots
        weights = best.values.softmax(-1)  # (..., M), by rank
        experts = expert_of_slot[best.indices]  # (..., M)
        result: Tensor = layer.base_layer(x)
        dropped = layer.fedlease_dropout[ADAPTER](x)
        for rank in range(rule.num_experts):
            for expert in range(rule.num_experts):
                weight = weights[..., rank, None] * (experts[..., rank, None] == expert)
                result = result + rule.scaling * weight * F.linear(F.linear(dropped, a[expert]), b[expert])
        return result


def build(width: int, num_experts: int, r: int, dropout: float) -> dict[str, nn.Module]:
    """All variants, over the same frozen linear module."""
    torch.manual_seed(0)
    base = nn.Linear(width, width).requires_grad_(False)
    config = FedLeaseConfig(r=r, num_experts=num_experts, own_expert=num_experts - 1, lora_dropout=dropout)
    routed = FedLeaseLayer(base, ADAPTER, config)
    plain = PlainLora(base, ADAPTER, config=LoraConfig(r=r, lora_alpha=16, lora_dropout=dropout), r=r, lora_alpha=16)
    with torch.no_grad():
        # B starts at zero, where the gradients of A and of the router are zero too.
        for b in [*routed.stack_b(ADAPTER), plain.lora_B[ADAPTER].weight]:
            b.normal_(0, 0.02)
    return {"floor": base, "plain": plain, "routed": routed, "loop": PairLoop(routed)}


def step(module: nn.Module, rows: int, tokens: int, width: int) -> Callable[[], None]:
    """One forward and backward pass, with a fixed input and a fixed gradient of the output."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, tokens, width, generator=generator).requires_grad_()
    gradient = torch.randn(rows, tokens, width, generator=generator)
    learning = [x, *(parameter for parameter in module.parameters() if parameter.requires_grad)]

    def run() -> None:
        for tensor in learning:
            tensor.grad = None
        module(x).backward(gradient)

    return run


def single_tokens(modules: Sequence[nn.Module], width: int, *, stacked: bool = False) -> Callable[[], None]:
    """One token through every layer, as in a step of ``generate`` with a cache.

    Args:
        modules: the layers: more than fit into the processor's caches, as in a model.
        width: features in and out of each layer.
        stacked: whether experts are stacked beforehand, as ``generate`` does once for all steps.
    """
    x = torch.randn(1, 1, width, generator=torch.Generator().manual_seed(1))

    def run() -> None:
        with torch.inference_mode():
            for module in modules:
                module(x)

    for module in modules if stacked else ():
        cast(FedLeaseLayer, module).stacks = {}
    return run


def single_token_table(smoke: bool) -> tuple[Table, list[float]]:
    """Measures the table, and the ratios of the routed layer in ``generate`` to plain LoRA."""
    lines, ratios = [], []
    depth = 2 if smoke else 12
    for width in (32,) if smoke else (384, 768, 1024, 2048):
        layers, again = ([build(width, 4, 8, 0.0) for _ in range(depth)] for _ in range(2))
        steps = {n: single_tokens([m[n].eval() for m in layers], width) for n in ("floor", "plain", "routed")}
        steps["generate"] = single_tokens([m["routed"].eval() for m in again], width, stacked=True)
        timed = interleave(steps, 3 if smoke else 301, warmup=2 if smoke else 20)
        ratios.append(timed.ratio("generate", "plain").median)
        times = [timed.of(name).text(0, 1e6 / depth) for name in steps]
        lines.append([str(width), *times, *(timed.ratio(n, "plain").text() for n in ("routed", "generate"))])
    columns = ["width", "floor, us", "plain, us", "routed, us", "generate, us", "routed / plain", "generate / plain"]
    note = "Plain: PEFT's LoRA layer. Generate: experts are stacked once, as `generate` does; routed: on every pass."
    return Table(
        f"One layer, one token in evaluation: M = 4, r = 8, {depth} layers in turn", columns, lines, [note]
    ), ratios


def measure(smoke: bool) -> Report:
    cores = use_all_cores()
    rows, tokens = (2, 8) if smoke else (16, 64)
    widths = (32,) if smoke else (384, 768, 1024, 2048)
    numbers = (2, 4) if smoke else (2, 4, 8)
    cells = [(*shape, 0.0) for shape in product(widths, numbers, (4,) if smoke else (4, 8))]
    cells += [(width, 4, 4, DROPOUT) for width in ((32,) if smoke else (384, 768, 1024))]
    times: dict[tuple[int, int, int, float], Times] = {}
    lines, memory, raw = [], [], []
    for cell in cells:
        width, num_experts, r, dropout = cell
        steps = {n: step(m, rows, tokens, width) for n, m in build(width, num_experts, r, dropout).items()}
        passes = 3 if smoke else 31 if width < 1024 else 15
        times[cell] = timed = interleave(steps, passes, warmup=1 if smoke else 4)
        peaks = {name: peak_tensor_bytes(run) for name, run in steps.items()}
        named = [str(value) for value in cell]
        lines.append(
            [
                *named,
                timed.of("floor").text(2, 1e3),
                timed.ratio("plain", "floor").text(),
                timed.of("routed").text(2, 1e3),
                timed.ratio("routed", "plain").text(),
                timed.ratio("loop", "routed").text(1),
                f"{timed.ratio('loop', 'floor').median:.1f}",
                f"{timed.ratio_above('floor', 'loop', 'routed'):.1f}",
            ]
        )
        memory.append([*named, *(f"{peaks[name] / 2**20:.1f}" for name in VARIANTS)])
        raw.append({"cell": cell, "seconds": timed.seconds, "peak_bytes": peaks})
    sizes = ["width", "M", "r", "dropout"]
    single, single_ratios = single_token_table(smoke)
    tables = [
        single,
        Table(
            f"One layer, forward and backward: {rows} x {tokens} tokens, float32, {cores} threads",
            [
                *sizes,
                "floor, ms",
                "plain / floor",
                "routed, ms",
                "routed / plain",
                "loop / routed",
                "loop / floor",
                "above floor",
            ],
            lines,
            [
                "Floor: forward and input gradient of the frozen linear module. Median (quartiles), interleaved. "
                "Loop / floor: what loop / routed would be if routing cost nothing. Above floor: what the loop adds "
                "to the floor, over what the routed layer adds to it.",
            ],
        ),
        Table(
            "One layer, peak memory in MiB",
            [*sizes, *VARIANTS],
            memory,
            ["Tensor memory alive at once beyond weights and input; output and gradients are counted."],
        ),
    ]
    dry = {} if smoke else {shape[:3]: timed for shape, timed in times.items() if shape[3] == 0}
    tall = [timed for (width, m, r), timed in dry.items() if (m, r) == (4, 4) and width >= 768]
    targets = [
        at_most(
            "routed layer, M = 4, r = 4, width >= 768: at most 1.10 x plain LoRA (largest)",
            [timed.ratio("routed", "plain").median for timed in tall],
            1.10,
        ),
        *against_the_loop(dry, 4, 3.5),
        *against_the_loop(dry, 8, 7.0),
        at_most(
            "plain LoRA layer, r = 4, width >= 768: at most 1.3 x the frozen layer (largest)",
            [timed.ratio("plain", "floor").median for timed in tall],
            1.3,
        ),
    ]
    if not smoke:
        targets.append(
            at_most("one token in generate: at most 1.5 x plain LoRA (largest)", single_ratios, 1.5),
        )
    return Report("What does a routed layer cost?", tables, targets, {"cells": raw})


def against_the_loop(dry: Mapping[tuple[int, int, int], Times], num_experts: int, least: float) -> list[Target]:
    """Judges two ratios to plain LoRA: of the whole layer, and of what the adapter adds to the frozen module."""
    picked = [timed for (_, m, _), timed in dry.items() if m == num_experts]
    text = f"M = {num_experts}: at least {least:.1f} x faster than the loop"
    return [
        at_least(f"{text}, whole layer (smallest)", [t.ratio("loop", "routed").median for t in picked], least),
        at_least(
            f"{text}, above the floor (smallest)", [t.ratio_above("floor", "loop", "routed") for t in picked], least
        ),
    ]


if __name__ == "__main__":
    entry("layer", measure)
