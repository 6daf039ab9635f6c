"""Time and memory of allocating the experts, for up to 10,000 clients.

    python benchmarks/allocation.py [--smoke] [--json FILE]

Every size runs in a process of its own, so that its peak memory is its own.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from output import Report, Table, at_most, entry

ROBERTA_LARGE = (48, 1024, 4)  # modules, out features, r: query and value projections of 24 layers
SMALL = (5, 1000, 4)  # 20,000 numbers per client
GB = 1e9


def run(clients: int, shape: tuple[int, int, int]) -> dict[str, Any]:
    child = Path(__file__).with_name("allocation_child.py")
    words = [sys.executable, str(child), *map(str, (clients, *shape))]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return {"clients": clients, "shape": shape, **result}


def measure(smoke: bool) -> Report:
    cells = [(16, (2, 32, 4)), (40, (2, 32, 4))] if smoke else []
    if not smoke:
        cells = [*((n, ROBERTA_LARGE) for n in (16, 100, 1000)), *((n, SMALL) for n in (100, 1000, 10_000))]
    results = [run(clients, shape) for clients, shape in cells]
    lines = []
    for result, before in zip(results, [None, *results], strict=False):
        growth = ["", ""]
        if before is not None and before["shape"] == result["shape"]:
            step = math.log(result["clients"] / before["clients"])
            extra = [max(part["peak"] - part["before"], 1) for part in (result, before)]
            growth = [
                f"{math.log(result['seconds'] / before['seconds']) / step:.1f}",
                f"{math.log(extra[0] / extra[1]) / step:.1f}",
            ]
        lines.append(
            [
                f"{result['clients']:,}",
                f"{math.prod(result['shape']):,}",
                f"{result['seconds']:.2f}",
                growth[0],
                f"{result['inputs'] / GB:.2f}",
                f"{(result['peak'] - result['before']) / GB:.2f}",
                growth[1],
                f"{result['peak'] / GB:.2f}",
                ", ".join(f"{part} {seconds:.2f}" for part, seconds in result["parts"].items() if seconds >= 0.01),
            ]
        )
    table = Table(
        "Allocation with four planted groups, float32 B",
        [
            "clients",
            "values each",
            "s",
            "grows as N^",
            "B, GB",
            "beyond B, GB",
            "grows as N^",
            "process, GB",
            "of which, s",
        ],
        lines,
        [
            "process: peak of the whole process, Python, torch and all B included. beyond B: that less what the "
            "process held when allocate was called. The planted groups were found at every size (asserted).",
        ],
    )
    by_size = {} if smoke else {(r["clients"], tuple(r["shape"])): r for r in results}

    def judged(clients: int, shape: tuple[int, int, int], seconds: float, memory: float, words: str) -> list[Any]:
        found = [by_size[clients, shape]] if (clients, shape) in by_size else []
        return [
            at_most(f"{words}: at most {seconds:.0f} s", [r["seconds"] for r in found], seconds, " s", 1),
            at_most(f"{words}: at most {memory:.0f} GB in all", [r["peak"] / GB for r in found], memory, " GB"),
        ]

    targets = [
        *judged(1000, ROBERTA_LARGE, 20, 4, "allocation of 1,000 clients, B of RoBERTa-large at r = 4"),
        *judged(10_000, SMALL, 120, 6, "allocation of 10,000 clients, 20,000 values each"),
    ]
    return Report("What does the allocation cost?", [table], targets, {"cells": results})


if __name__ == "__main__":
    entry("allocation", measure)
