"""One training step under differential privacy, against the plain step and the frozen model.

    python benchmarks/private_step.py [--smoke] [--json FILE]

Both steps train the same tensors of one client on the same rows: forward, backward and AdamW. The private step computes
the gradient of every row, clips it, and adds noise. The frozen model runs forward and computes the gradient of its
embeddings, which no step with adapters in all layers can undercut.
"""

from collections.abc import Callable

import torch
from measure import interleave, peak_tensor_bytes, use_all_cores
from output import Report, Table, at_most, entry
from step import base_model, batch_of, frozen_step

from fedlease.client.private_steps import PrivacyTerms, PrivateTraining
from fedlease.client.resident import ResidentModel
from fedlease.core.adapters import initial_adapter
from fedlease.core.row_noise import Amount
from fedlease.core.types import ClientModel, ClientTask, Stage
from fedlease.models.base import initial_head
from fedlease.models.targets import target_shapes
from fedlease.tasks.classification import Classification
from fedlease.tasks.encoded import Encoded

VARIANTS = ("frozen", "plain", "private")


def steps_of(name: str, rows: int, tokens: int, r: int, last_layers: int | None) -> dict[str, Callable[[], None]]:
    base = base_model(name)
    batch = batch_of(base, rows, tokens)
    frozen = frozen_step(base_model(name), batch)
    shapes = target_shapes(base, None, r, last_layers)
    resident = ResidentModel(base, torch.device("cpu"), None, Classification(tokens))
    ids = batch["input_ids"].tolist()
    columns = {"input_ids": ids, "token_type_ids": [[0] * tokens for _ in ids]}
    encoded = Encoded.of(columns, batch["labels"].tolist(), 0, left=False)
    adapter = initial_adapter(shapes, r=r, alpha=16.0, dropout=0.0, seed=0)
    model = ClientModel(adapter.spec, {**adapter.tensors, **initial_head(resident.head_modules(2), 0)})
    stage = Stage(frozenset(model.tensors), 1)
    task = ClientTask("experts", 1, model, (stage,), adapter.names("AB"))
    terms = PrivacyTerms(8.0, 1e-5, 0.02, rows, {"fedit": Amount(16)}, 0)
    training = PrivateTraining(resident, terms, sorted(shapes))
    resident.load(model, 2)
    parameters = resident.train_only(stage.trainable)
    resident.model.train()
    private = training.steps(task, stage, encoded, ("a",))
    adamw = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    everyone = list(range(rows))

    def step(backward: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            backward()
            adamw.step()
            adamw.zero_grad(set_to_none=True)

        return run

    return {
        "frozen": frozen,
        "plain": step(lambda: resident.task.batch_loss(resident, encoded, everyone).backward()),
        "private": step(lambda: private.backward(everyone)),
    }


def measure(smoke: bool) -> Report:
    cores = use_all_cores()
    name, rows, cases = ("tiny-random", 2, ((8, None),)) if smoke else ("minilm", 64, ((28, None), (96, None), (28, 1)))
    lines, raw, ratios = [], [], []
    for tokens, last_layers in cases:
        steps = steps_of(name, rows, tokens, 8, last_layers)
        timed = interleave(steps, 3 if smoke else 15, warmup=1 if smoke else 3)
        peaks = {variant: peak_tensor_bytes(run) for variant, run in steps.items()}
        ratios.append(timed.ratio("private", "plain").median)
        lines += [
            [
                "all" if last_layers is None else f"last {last_layers}",
                str(tokens),
                variant,
                timed.of(variant).text(1, 1e3),
                timed.ratio(variant, "frozen").text(),
                timed.ratio(variant, "plain").text(),
                f"{peaks[variant] / 2**20:.1f}",
            ]
            for variant in VARIANTS
        ]
        raw.append({"tokens": tokens, "layers": last_layers, "seconds": timed.seconds, "peak_bytes": peaks})
    table = Table(
        f"One private training step of {name}: {rows} rows, r = 8, float32, {cores} threads",
        ["layers", "tokens", "variant", "ms", "/ frozen", "/ plain", "peak MiB"],
        lines,
        ["Adapters on query and value projections, and the head. Peak: tensor memory alive at once beyond weights."],
    )
    target = at_most("private step: at most 2.5 x the plain step (largest)", [] if smoke else ratios, 2.5)
    return Report("What does a step under differential privacy cost?", [table], [target], {"steps": raw})


if __name__ == "__main__":
    entry("private_step", measure)
