"""Time and memory of variants of one computation, measured alternately in one process."""

import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

Step = Callable[[], object]


class Spread(NamedTuple):
    """Median with the lower and upper quartile."""

    low: float
    median: float
    high: float

    def text(self, digits: int = 2, factor: float = 1.0) -> str:
        low, median, high = (f"{value * factor:.{digits}f}" for value in self)
        return f"{median} ({low}-{high})"


def spread(values: Sequence[float]) -> Spread:
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, median, high)


@dataclass(frozen=True)
class Times:
    """Seconds per variant, one entry per pass: entries i of two variants were measured side by side."""

    seconds: Mapping[str, list[float]]

    def of(self, name: str) -> Spread:
        return spread(self.seconds[name])

    def ratio(self, name: str, other: str) -> Spread:
        """Ratios of two variants within each pass, since what slows the machine for a while slows both."""
        return spread([a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True)])

    def ratio_above(self, floor: str, name: str, other: str) -> float:
        """Ratio of what ``name`` adds to the floor's time to what ``other`` adds; infinite if that adds none."""
        added = self.of(other).median - self.of(floor).median
        return (self.of(name).median - self.of(floor).median) / added if added > 0 else float("inf")


def interleave(variants: Mapping[str, Step], passes: int, warmup: int) -> Times:
    """Runs A B C A B C ...; times of the first ``warmup`` passes are dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    gc.collect()
    for number in range(warmup + passes):
        for name, step in variants.items():
            started = time.perf_counter()
            step()
            taken = time.perf_counter() - started
            if number >= warmup:
                seconds[name].append(taken)
    return Times(seconds)


def peak_tensor_bytes(step: Step) -> int:
    """Peak of the tensor memory that ``step`` allocates, in bytes.

    Counts every allocation of torch's CPU allocator, including those inside an operator, but no buffers of a matrix
    library. Unlike the memory of the process, it does not depend on earlier work.
    """
    step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        with _silent_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            step()
        profiler.export_chrome_trace(str(trace))
        events = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event["args"]["Ev Idx"]):
        alive += event["args"]["Bytes"]
        peak = max(peak, alive)
    return peak


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """The profiler's native library reports every start and stop on descriptor 2, whatever its log level."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def use_all_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    return cores
