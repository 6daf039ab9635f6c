"""One whole run in this process; time and peak memory by phase as JSON: see ``quickstart.py``."""

import json
import os
import sys
import time
from pathlib import Path

from memory import memory_of_process

STARTED = time.perf_counter()
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from fedlease.server.events import (  # noqa: E402
    Event,
    MethodFinished,
    MethodStarted,
    RunStarted,
    StepFinished,
)
from fedlease.use.run import run  # noqa: E402  timed: this imports torch, transformers and PEFT


class Phases:
    """A listener that sums seconds by phase, and notes the process's peak memory at the end of each."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self.since = STARTED
        self.main = ""

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.main = event.settings["method"]
            self.stop("rows, model, tokens")
        elif isinstance(event, MethodStarted) or (isinstance(event, StepFinished) and event.method != self.main):
            pass
        elif isinstance(event, StepFinished):
            self.split(event)
        elif isinstance(event, MethodFinished):
            self.stop("evaluation" if event.method == self.main else f"baseline {event.method}")

    def split(self, event: StepFinished) -> None:
        """Divides a step of the main method by the engine's clocks; the remainder is the time of saving state."""
        warmup = event.record["phase"] == "warmup"
        inside = event.record["seconds"]
        self.add("warm-up" if warmup else "rounds", inside["train"])
        self.add("evaluation", inside["evaluate"])
        self.add("allocation" if warmup else "rounds", inside["aggregate"])
        measured = sum(inside[part] for part in ("train", "evaluate", "aggregate"))
        now = time.perf_counter()
        self.add("checkpoints and the rest", now - self.since - measured)
        self.since = now

    def stop(self, name: str) -> None:
        """Counts the time since the last call as this phase's."""
        now = time.perf_counter()
        self.add(name, now - self.since)
        self.since = now

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.peaks[name] = memory_of_process()[1]


def main(preset: str, out: Path) -> None:
    phases = Phases()
    phases.stop("import")
    run(preset, out=out, listeners=[phases])
    phases.stop("checkpoints and the rest")
    found = [{"name": n, "seconds": seconds, "peak": phases.peaks[n]} for n, seconds in phases.seconds.items()]
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
