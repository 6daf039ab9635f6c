"""Serialised bytes that a client exchanges in a round, against an implementation that uploads every expert.

    python benchmarks/payload.py [--smoke] [--json FILE]

Asserts that an upload is the own expert, the router, the head where it is shared, and nothing else.
"""

import torch
from output import Report, Table, Target, entry

from fedlease.core.adapters import initial_adapter
from fedlease.core.choices import HeadPolicy
from fedlease.core.codec import dumps
from fedlease.core.types import Budget, ClientTask, ClientUpdate, TensorName, head_names
from fedlease.methods.fedlease import FedLease
from fedlease.methods.head import Head, with_head

MODELS = {"MiniLM-L6": (6, 384, 8), "RoBERTa-large": (24, 1024, 4)}
"""Layers, width, r; query and value projections are adapted."""
LABELS = 2


def task_of_round(layers: int, width: int, r: int, num_experts: int, policy: HeadPolicy) -> ClientTask:
    """The first client's task in round 1, after an allocation with two planted clients per expert."""
    shapes = {
        f"encoder.layer.{i}.attention.{kind}": (width, width) for i in range(layers) for kind in ("query", "value")
    }
    adapter = initial_adapter(shapes, r=r, alpha=16.0, dropout=0.0, seed=0)
    head = {"head/classifier.weight": torch.zeros(LABELS, width), "head/classifier.bias": torch.zeros(LABELS)}
    clients = [f"client-{i:02}" for i in range(2 * num_experts)]
    method = with_head(
        FedLease(Budget(1, 1), max_experts=max(num_experts, 2)),
        policy,
        dict.fromkeys(clients, Head(("no", "yes"), head)),
    )
    state = method.init(adapter, dict.fromkeys(clients, 1), 0)
    updates = []
    for number, client in enumerate(clients):
        generator = torch.Generator().manual_seed(number % num_experts)
        task = method.task(state, client)
        tensors = {
            name: torch.randn(task.model.tensors[name].shape, generator=generator) for name in sorted(task.upload)
        }
        updates.append(ClientUpdate(client, task.phase, 0, 1, tensors))
    task = method.task(method.aggregate(state, updates), clients[0])
    assert task.model.spec.num_experts == num_experts
    return task


def expected_upload(task: ClientTask, policy: HeadPolicy) -> frozenset[str]:
    """Names that a client uploads by the paper: its expert's A and B and every module's router; by policy its head."""
    spec = task.model.spec
    names = {str(TensorName(m, kind, spec.own)) for m in spec.target_modules for kind in ("A", "B")}
    if spec.num_experts > 1:
        names |= {str(TensorName(m, "G")) for m in spec.target_modules}
    if policy == "shared":
        names |= head_names(task.model.tensors)
    return frozenset(names)


def measure(smoke: bool) -> Report:
    models = {"tiny": (1, 16, 4)} if smoke else MODELS
    lines, raw, exact = [], [], True
    for name, (layers, width, r) in models.items():
        for num_experts in (1, 2) if smoke else (1, 2, 4, 8):
            sizes: dict[str, int] = {}
            for policy in ("local", "shared"):
                task = task_of_round(layers, width, r, num_experts, policy)
                assert task.upload == expected_upload(task, policy)
                tensors = task.model.tensors
                values = 2 * layers * (2 * r * width + (2 * num_experts - 1) * width * (num_experts > 1))
                values += (LABELS * width + LABELS) * (policy == "shared")
                exact &= sum(tensors[n].numel() for n in task.upload) == values
                upload = len(dumps({n: tensors[n] for n in task.upload}))
                # What remains are the serialised names; a bound on their size shows that nothing else travels.
                exact &= upload - 4 * values <= 400 * len(task.upload) + 1000
                sizes[policy] = upload
                if policy == "local":
                    received = {n: t for n, t in tensors.items() if n not in task.private}
                    sizes["down"] = len(dumps((task.model.spec, received)))
                    sizes["everything"] = len(dumps(received))
                    sizes["values"] = 4 * values
            lines.append(
                [
                    name,
                    str(r),
                    str(num_experts),
                    *(f"{sizes[key] / 1e6:.3f}" for key in ("values", "local", "shared", "down", "everything")),
                    f"{sizes['everything'] / sizes['local']:.2f}",
                ]
            )
            raw.append({"model": name, "num_experts": num_experts, "bytes": sizes})
    table = Table(
        "MB per client and round, serialised with fedlease.core.codec",
        ["model", "r", "M", "values alone", "up", "up, shared head", "down", "up, all experts", "all experts / ours"],
        lines,
        [
            "MB = 10^6 bytes. values alone: own expert and router as float32, without names. down: specification, all "
            f"experts and the router. The shared head has {LABELS} labels and one linear layer.",
        ],
    )
    assert exact
    text = "upload: own expert and router, the head where shared, and nothing else"
    target = Target(text, f"asserted in {2 * len(raw)} cases", None if smoke else exact)
    return Report("What travels?", [table], [target], {"cells": raw})


if __name__ == "__main__":
    entry("payload", measure)
