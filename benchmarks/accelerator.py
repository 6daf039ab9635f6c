"""How much faster clients train on an accelerator when several go into one step.

    python benchmarks/accelerator.py FILE [--seconds 300] [--smoke]

Sixteen clients of the quickstart (80 rows, batches of 8, at most 32 tokens, r = 8) through warm-up and two rounds of
FedLEASE, in float32 and in bfloat16, with 1, 2, 4, 8 and 16 clients in a step, in turn, until the time is over. The
floor is one client in a step: the same work one after another. Every run is a line of FILE, to which a later call adds;
the table is of all lines. Without an accelerator, and under --smoke, a tiny model shows that it runs.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from output import Report as Shown
from output import Table, machine, show

from fedlease.config.settings import resolve
from fedlease.runs.runner import run_settings

COUNTS = (16, 1, 8, 4, 2)
SETTINGS: dict[str, Any] = {
    "preset": "quickstart",
    "baselines": [],
    "rounds": 2,
    "data.test_rows": 8,
    "deterministic": False,
    "threads": 1,
}
SMOKE: dict[str, Any] = {"preset": "smoke", "baselines": [], "rounds": 1, "threads": 1}


def once(settings: dict[str, Any], dtype: str, count: int) -> dict[str, Any]:
    """One run: seconds of training, scoring and in all, and the peak of the accelerator's memory in MB."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    changes = {**settings, "dtype": dtype, "clients_per_step": count}
    with tempfile.TemporaryDirectory() as folder:
        summary = run_settings(resolve(overrides=changes), Path(folder, "run"))["fedlease"]
    return {
        "device": torch.cuda.get_device_name() if cuda else "processor",
        "smoke": settings is SMOKE,
        "dtype": dtype,
        "clients": count,
        "seconds": round(time.perf_counter() - started, 2),
        "train": round(summary.seconds["train"], 3),
        "evaluate": round(summary.seconds["evaluate"], 3),
        "peak_mb": torch.cuda.max_memory_allocated() >> 20 if cuda else 0,
    }


def table(lines: Sequence[dict[str, Any]]) -> Table:
    """The medians of all runs, and how many times faster than one client in a step."""
    runs: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for line in lines:
        runs.setdefault((line["device"], line["dtype"], line["clients"]), []).append(line)
    rows = []
    for (device, dtype, count), found in sorted(runs.items()):
        seconds = statistics.median(line["train"] for line in found)
        alone = runs.get((device, dtype, 1))
        ratio = f"{statistics.median(line['train'] for line in alone) / seconds:.1f}" if alone else "-"
        peak = max(line["peak_mb"] for line in found)
        rows.append([device, dtype, str(count), str(len(found)), f"{seconds:.2f}", ratio, str(peak)])
    columns = ["device", "dtype", "clients in a step", "runs", "training, s", "times faster than one", "peak, MB"]
    return Table("warm-up and two rounds of sixteen clients", columns, rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/accelerator.py")
    parser.add_argument("file", type=Path, help="JSON lines, one per run; is added to")
    parser.add_argument("--seconds", type=float, default=300, help="no run begins after so long")
    parser.add_argument("--smoke", action="store_true", help="a tiny model and one pass: does it run")
    arguments = parser.parse_args(argv)
    settings = SMOKE if arguments.smoke or not torch.cuda.is_available() else SETTINGS
    started = time.perf_counter()
    print(json.dumps(machine()))
    passes = 1 if settings is SMOKE else 100
    for _, dtype, count in product(range(passes), ("float32", "bfloat16"), COUNTS):
        if time.perf_counter() - started > arguments.seconds:
            break
        with arguments.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(once(settings, dtype, count)) + "\n")
    lines = [json.loads(line) for line in arguments.file.read_text(encoding="utf-8").splitlines()]
    question = "How much faster do clients train when several go into one step?"
    show(Shown(question, [table([line for line in lines if line["smoke"] is (settings is SMOKE)])]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
