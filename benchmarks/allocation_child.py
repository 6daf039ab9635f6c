"""One allocation in this process, its time and peak memory as JSON: see ``allocation.py``."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import use_all_cores
from memory import memory_of_process

from fedlease.core import allocate as module

GROUPS, NOISE = 4, 0.7
PARTS = {"distances": "distances", "cuts": "tree and cuts", "silhouette": "silhouettes"}
"""Stages of ``allocate`` that are timed: name of the function -> what it does."""


def planted(clients: int, modules: int, out: int, r: int) -> dict[str, dict[str, torch.Tensor]]:
    """Client i belongs to group i mod 4: the group's B with noise on top."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(GROUPS, modules, out, r, generator=generator)
    b = {}
    for i in range(clients):
        values = torch.randn(modules, out, r, generator=generator).mul_(NOISE).add_(centres[i % GROUPS])
        b[f"client-{i:05}"] = {f"layer.{m:02}": values[m] for m in range(modules)}
    return b


def timed(name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    inner = getattr(module, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = inner(*args, **kwargs)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
        return result

    return wrapper


def main(clients: int, modules: int, out: int, r: int) -> None:
    use_all_cores()
    b = planted(clients, modules, out, r)
    seconds: dict[str, float] = {}
    for name in PARTS:
        setattr(module, name, timed(name, seconds))
    before, _ = memory_of_process()
    started = time.perf_counter()
    found = module.allocate(b)
    whole = time.perf_counter() - started
    _, peak = memory_of_process()
    assert found.num_experts == GROUPS, found.silhouettes
    # Experts are numbered by their smallest client, so group g is expert g.
    assert [found.assignment[client] for client in sorted(b)] == [i % GROUPS for i in range(clients)]
    parts = {words: seconds[name] for name, words in PARTS.items()}
    inputs = sum(tensor.numel() * tensor.element_size() for mine in b.values() for tensor in mine.values())
    print(json.dumps({"seconds": whole, "inputs": inputs, "before": before, "peak": peak, "parts": parts}))


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
