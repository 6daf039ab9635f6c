"""Time, memory and agreement with the truth of grouping up to 10,000 clients by warm-ups on halves of their rows.

    python benchmarks/grouping_many.py [--smoke] [--json FILE]

Clients belong to eight planted tasks: the B of a half is the B of its task plus noise whose strength is the client's;
all share one A. What is measured is the whole allocation of ``fedlease-plus``. Every size runs in a separate process,
so that its peak memory is its own. Floor: one product with all clients' values, which is the cost of reading them.
"""

import json
import math
import subprocess
import sys
import time
from typing import Any

import torch
from measure import use_all_cores
from memory import memory_of_process
from output import Report, Table, at_least, at_most, entry

TASKS = 8
SHAPE = (5, 250, 4)
"""Modules, features in and out, r: 10,000 values in A and B of each half."""
GB = 1e9


def planted(clients: int, modules: int, width: int, r: int) -> dict[str, dict[str, torch.Tensor]]:
    """Client i belongs to task i mod 8; its noise is 0.7 to 1.7 of the signal."""
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(modules, r, width, generator=draw) / math.sqrt(width)
    centres = torch.randn(TASKS, modules, width, r, generator=draw)
    halves = {}
    for i in range(clients):
        noise = 0.7 + i * 7919 % 1000 / 1000
        own = {}
        for half in (0, 1):
            b = centres[i % TASKS] + noise * torch.randn(modules, width, r, generator=draw)
            own |= {f"l{m}/A/{half}": a[m] for m in range(modules)} | {f"l{m}/B/{half}": b[m] for m in range(modules)}
        halves[f"client-{i:05}"] = own
    return halves


def main(clients: int, modules: int, width: int, r: int) -> None:
    """Groups clients once in this process; prints JSON."""
    from sklearn.metrics import adjusted_rand_score

    from fedlease.methods.fedlease_similarity import BySimilarity

    use_all_cores()
    halves = planted(clients, modules, width, r)
    uploads = {c: {name: t for name, t in own.items() if name.endswith("/0")} for c, own in halves.items()}
    values = torch.stack([torch.cat([t.flatten() for t in own.values()]) for own in uploads.values()])
    started = time.perf_counter()
    torch.mm(values[: clients // 10], values.T)
    floor = 10 * (time.perf_counter() - started)
    del values
    before, _ = memory_of_process()
    started = time.perf_counter()
    labels = BySimilarity(halves=halves)(uploads, 0).assignment
    seconds = time.perf_counter() - started
    index = adjusted_rand_score([i % TASKS for i in range(clients)], [labels[client] for client in sorted(labels)])
    found = {"clients": clients, "seconds": seconds, "floor": floor, "groups": len(set(labels.values()))}
    print(json.dumps({**found, "index": float(index), "before": before, "peak": memory_of_process()[1]}))


def measure(smoke: bool) -> Report:
    """Measures one size after another."""
    results: list[dict[str, Any]] = []
    for clients in (16, 24) if smoke else (250, 1000, 10_000):
        words = [sys.executable, __file__, *map(str, (clients, *((1, 64, 2) if smoke else SHAPE)))]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
    rows = [
        [
            f"{one['clients']:,}", f"{one['seconds']:.1f}", f"{one['floor']:.1f}", str(one["groups"]),
            f"{one['index']:.3f}", f"{one['before'] / GB:.2f}", f"{one['peak'] / GB:.2f}",
        ]
        for one in results
    ]  # fmt: skip
    columns = ["clients", "s", "all pairs, s", "groups", "index", "before, GB", "peak, GB"]
    note = "index: adjusted Rand index against the eight tasks. all pairs: one float32 product of all clients' values."
    judged = [] if smoke else results
    targets = [
        at_most("10,000 clients in at most 60 s", [one["seconds"] for one in judged[-1:]], 60, " s", 1),
        at_most("and 4 GB", [one["peak"] / GB for one in judged[-1:]], 4, " GB"),
        at_least("index of every size at least .99", [one["index"] for one in judged], 0.99, digits=3),
    ]
    table = Table("fedlease-plus: groups of eight planted tasks", columns, rows, [note])
    return Report("What does grouping ten thousand clients take?", [table], targets, {"cells": results})


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].isdecimal():
        main(*map(int, sys.argv[1:]))
    else:
        entry("grouping_many", measure)
