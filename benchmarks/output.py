"""Output of every benchmark: tables and targets, printed and written as JSON."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

PACKAGES = ("torch", "transformers", "peft", "scipy", "scikit-learn", "fedlease")


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Target:
    """A target; ``met`` is None if nothing was measured to judge it by, as under ``--smoke``."""

    text: str
    figure: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "missed", None: "not judged"}[self.met]


@dataclass(frozen=True)
class Report:
    question: str
    tables: Sequence[Table]
    targets: Sequence[Target] = ()
    raw: dict[str, Any] = field(default_factory=dict)


def at_most(text: str, values: Sequence[float], limit: float, unit: str = "", digits: int = 2) -> Target:
    """Makes a target that bounds the largest of some values."""
    if not values:
        return Target(text, "-", None)
    return Target(text, f"{max(values):.{digits}f}{unit}", max(values) <= limit)


def at_least(text: str, values: Sequence[float], limit: float, unit: str = "", digits: int = 2) -> Target:
    """Makes a target that bounds the smallest of some values."""
    if not values:
        return Target(text, "-", None)
    return Target(text, f"{min(values):.{digits}f}{unit}", min(values) >= limit)


def entry(name: str, measure: Callable[[bool], Report], argv: Sequence[str] | None = None) -> None:
    """Runs a benchmark's command line: ``[--smoke] [--json FILE]``."""
    parser = argparse.ArgumentParser(prog=f"benchmarks/{name}.py")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes in seconds: does it run; figures mean nothing")
    parser.add_argument("--json", type=Path, help="also write the tables and targets to this file")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    report = measure(arguments.smoke)
    show(report)
    if arguments.json is not None:
        seconds = round(time.perf_counter() - started, 1)
        content = {"name": name, "smoke": arguments.smoke, "seconds": seconds, **asdict(report), "machine": machine()}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def show(report: Report) -> None:
    console = Console()
    console.width = max(console.width, 120)  # a pipe has no width
    console.print(report.question, markup=False)
    for table in report.tables:
        shown = RichTable(*table.columns, title=table.title)
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
        for note in table.notes:
            console.print(note, markup=False, highlight=False)
    for target in report.targets:
        console.print(f"{target.verdict.upper():10} {target.text}: {target.figure}", markup=False)


def _version(name: str) -> str:
    """Of a package; where fedlease is run from its sources, nothing is installed that could be asked."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def machine() -> dict[str, Any]:
    """Describes what figures depend on: date, processor, memory, versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model, cpuinfo = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": model,
        "cores": cores,
        "memory_gb": round(memory / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }
