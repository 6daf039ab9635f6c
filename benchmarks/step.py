"""One training step of a model with routed layers, against plain LoRA, the frozen model and the bare products; and
the same step in bfloat16.

    python benchmarks/step.py [--smoke] [--json FILE]

The frozen model runs forward and computes the gradient of its embeddings; the bare products are the matrix products in
this, and nothing else. No training step with adapters in every layer can be faster than either.
In bfloat16 the step is measured with torch's attention, and with the one that fedlease uses instead.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import Times, interleave, peak_tensor_bytes, use_all_cores
from output import Report, Table, at_most, entry
from torch import Tensor, nn

from fedlease.core.types import AdapterSpec
from fedlease.models.base import BaseModel, load_base
from fedlease.models.sources import locate
from fedlease.models.targets import target_shapes
from fedlease.peft_plugin.state import head_parameters, peft_config_for, wrap

VARIANTS = ("products", "frozen", "plain", "routed")
IN_BFLOAT16 = ("float32", "bfloat16, torch's attention", "bfloat16, attention in float32")
Batch = dict[str, Tensor]


def base_model(name: str, dtype: str = "float32") -> BaseModel:
    with tempfile.TemporaryDirectory() as folder:
        return load_base(locate(name, None, Path(folder), 0), dtype=dtype, dropout=False)


def batch_of(base: BaseModel, rows: int, tokens: int) -> Batch:
    """Makes a batch of random tokens without padding."""
    vocabulary = base.model.config.vocab_size  # type: ignore[union-attr]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(min(1000, vocabulary // 2), vocabulary, (rows, tokens), generator=generator)
    labels = torch.arange(rows) % 2
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def adapted_step(
    base: BaseModel, num_experts: int, r: int, batch: Batch, autocast: torch.dtype | None = None
) -> Callable[[], None]:
    """A step of the own expert, router and head: forward, backward and AdamW; one expert is plain LoRA from PEFT."""
    targets = tuple(sorted(target_shapes(base, None, r)))
    spec = AdapterSpec(r, 16.0, 0.0, targets, num_experts, 0, "top_m" if num_experts > 1 else "none")
    torch.manual_seed(0)
    model = wrap(base.model, peft_config_for(spec)).train()
    for name, parameter in model.named_parameters():
        if "_B." in name:
            nn.init.normal_(parameter, 0, 0.02)
    for parameter in head_parameters(base.model, base.head_modules).values():
        parameter.requires_grad_(True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=1e-6, fused=True)

    def run() -> None:
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    return run


def embeddings_of(base: BaseModel) -> nn.Module:
    return base.model.get_submodule(f"{base.model.base_model_prefix}.embeddings")


def frozen_step(base: BaseModel, batch: Batch) -> Callable[[], None]:
    """A forward pass, and the gradient of the embeddings' output."""
    embeddings_of(base).register_forward_hook(lambda module, inputs, output: output.requires_grad_())

    def run() -> None:
        base.model(**batch).loss.backward()

    return run


def products_step(base: BaseModel, batch: Batch) -> Callable[[], None]:
    """The matrix products of :func:`frozen_step`, linear modules and attention, into preallocated memory."""
    shapes: list[tuple[int, Tensor]] = []
    hooks = [
        module.register_forward_hook(
            lambda m, inputs, output: shapes.append((inputs[0].numel() // m.in_features, m.weight))
        )
        for module in base.model.modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        base.model(**batch)
    for hook in hooks:
        hook.remove()
    config: Any = base.model.config
    rows, tokens = batch["input_ids"].shape
    heads = rows * config.num_attention_heads
    inner = config.hidden_size // config.num_attention_heads
    memory: dict[tuple[Any, ...], Tensor] = {}

    def space(role: str, *shape: int) -> Tensor:
        # Layers share their buffers so that this remains a floor: nothing is allocated, and caches are warm.
        return memory.setdefault((role, *shape), torch.randn(*shape))

    calls: list[tuple[Any, Tensor, Tensor, Tensor]] = []
    for count, weight in shapes:
        features_out, features_in = weight.shape
        x, y = space("x", count, features_in), space("y", count, features_out)
        calls += [(torch.mm, x, weight.t(), y), (torch.mm, y, weight, space("dx", count, features_in))]
    for _ in range(config.num_hidden_layers):
        wide, tall = space("wide", heads, tokens, inner), space("tall", heads, inner, tokens)
        square, mixed = space("square", heads, tokens, tokens), space("mixed", heads, tokens, inner)
        # Forward: scores and mixture. Backward: gradients of q, k, v and of the scores.
        calls += [(torch.bmm, wide, tall, square)] * 2 + [(torch.bmm, square, wide, mixed)] * 4

    def run() -> None:
        with torch.no_grad():
            for product, left, right, out in calls:
                product(left, right, out=out)

    return run


def in_bfloat16(name: str, rows: int, tokens: int, num_experts: int, r: int) -> dict[str, Callable[[], None]]:
    """The routed step in float32, and in bfloat16 with either attention."""
    plain, torchs, ours = base_model(name), base_model(name, "bfloat16"), base_model(name, "bfloat16")
    torchs.model.set_attn_implementation("sdpa")  # type: ignore[operator]
    batch = batch_of(plain, rows, tokens)
    steps = [adapted_step(plain, num_experts, r, batch)]
    steps += [adapted_step(base, num_experts, r, batch, torch.bfloat16) for base in (torchs, ours)]
    return dict(zip(IN_BFLOAT16, steps, strict=True))


def bfloat16_table(
    cores: int, name: str, rows: int, lengths: Sequence[int], num_experts: int, r: int, passes: int
) -> tuple[Table, list[float]]:
    """Measures the table, and the ratios of bfloat16 to float32 at every length."""
    lines, ratios = [], []
    for tokens in lengths:
        steps = in_bfloat16(name, rows, tokens, num_experts, r)
        timed = interleave(steps, passes, warmup=2)
        peaks = {variant: peak_tensor_bytes(run) / 2**20 for variant, run in steps.items()}
        ratios.append(timed.ratio(IN_BFLOAT16[-1], "float32").median)
        for variant in IN_BFLOAT16:
            ratio = timed.ratio(variant, "float32").text()
            lines.append([str(tokens), variant, timed.of(variant).text(1, 1e3), ratio, f"{peaks[variant]:.1f}"])
    title = f"The routed step of {name} in bfloat16: {rows} rows, M = {num_experts}, r = {r}, {cores} threads"
    notes = ["`dtype: bfloat16`: base and products in bfloat16; adapters, router and AdamW in float32."]
    return Table(title, ["tokens", "computed in", "ms", "/ float32", "peak MiB"], lines, notes), ratios


def measure(smoke: bool) -> Report:
    cores = use_all_cores()
    name, rows, lengths = ("tiny-random", 2, (8,)) if smoke else ("minilm", 16, (28, 96))
    num_experts, r = 4, 8
    lines, raw = [], []
    times: dict[int, Times] = {}
    for tokens in lengths:
        bases = [base_model(name) for _ in VARIANTS]
        batch = batch_of(bases[0], rows, tokens)
        steps = {
            "products": products_step(bases[0], batch),
            "frozen": frozen_step(bases[1], batch),
            "plain": adapted_step(bases[2], 1, r, batch),
            "routed": adapted_step(bases[3], num_experts, r, batch),
        }
        times[tokens] = timed = interleave(steps, 3 if smoke else 31, warmup=1 if smoke else 4)
        peaks = {variant: peak_tensor_bytes(run) for variant, run in steps.items()}
        for variant in VARIANTS:
            lines.append(
                [
                    str(tokens),
                    variant,
                    timed.of(variant).text(1, 1e3),
                    timed.ratio(variant, "products").text(),
                    timed.ratio(variant, "frozen").text(),
                    timed.ratio(variant, "plain").text(),
                    f"{peaks[variant] / 2**20:.1f}",
                ]
            )
        raw.append({"tokens": tokens, "seconds": timed.seconds, "peak_bytes": peaks})
    table = Table(
        f"One training step of {name}: {rows} rows, M = {num_experts}, r = {r}, float32, {cores} threads",
        ["tokens", "variant", "ms", "/ products", "/ frozen", "/ plain", "peak MiB"],
        lines,
        [
            "Adapters on query and value projections. plain, routed: forward, backward, clipping, AdamW. frozen: "
            "forward, gradient of the embeddings' output. products: frozen's matrix products alone, into given memory. "
            "Peak: tensor memory alive at once beyond weights, optimiser state and input.",
        ],
    )
    short, ratios = bfloat16_table(cores, name, rows, lengths, num_experts, r, 3 if smoke else 21)
    judged = [] if smoke else list(times.values())
    targets = [
        at_most(
            "whole step, M = 4: at most 1.25 x the plain LoRA step (largest)",
            [timed.ratio("routed", "plain").median for timed in judged],
            1.25,
        ),
        at_most(
            "plain LoRA step: at most 1.3 x the frozen model's forward and input gradient (largest)",
            [timed.ratio("plain", "frozen").median for timed in judged],
            1.3,
        ),
        at_most(
            "the step in bfloat16: at most 0.7 x float32, on a processor that multiplies bfloat16 (largest)",
            [] if smoke else ratios,
            0.7,
        ),
    ]
    return Report("What does routing cost in a whole training step?", [table, short], targets, {"cells": raw})


if __name__ == "__main__":
    entry("step", measure)
