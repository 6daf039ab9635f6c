"""How do all methods compare on the same rows and budget, each at the better of two learning rates?

    python benchmarks/method_table.py FILE [--rows DIR] [--methods all] [--seeds 0,1] [--rates 1e-3,3e-3] [--workers N]
        [--device auto] [--budget-seconds S] [--set key=value ...] [--only quickstart|glue] [--table] [--smoke]

Two federations: the quickstart (16 clients of four tasks) and, where ``--rows`` names a folder of GLUE files, SST-2,
QNLI, MRPC and QQP with two clients each. A method is first run at every rate on the first seed and scored on validation
rows, a fifth of the train rows; the better rate (the smaller on a tie) is run on every seed and scored on test rows.
Every run is a line of FILE, written as it ends; a later call adds what is missing, and runs again what failed. No run
begins after ``--budget-seconds``. First steps that runs share are made once, and count in each with the time they took.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedlease.config.settings import resolve
from fedlease.errors import FedLeaseError
from fedlease.experiments.experiment import variants_of
from fedlease.runs.runner import run_settings

FEDERATIONS: dict[str, dict[str, Any]] = {
    "quickstart": {"preset": "quickstart", "data.train_rows": 100, "data.test_rows": 100},
    "glue": {"preset": "glue-small", "data.train_rows": 500, "data.test_rows": 300},
}
"""Name -> settings; a fifth of the train rows is for validation, which leaves 80 and 400, as in the presets."""
SMOKE = {"preset": "smoke", "data.source": "synthetic", "data.path": None, "data.tasks": ("sst2",), "rounds": 1,
         "warmup.epochs": 1, "data.train_rows": 10, "data.test_rows": 8}  # fmt: skip
COMMON = {"baselines": [], "data.valid_fraction": 0.2, "threads": 1, "keep_predictions": False, "audit": False}

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One run; a tuning run is scored on validation rows."""

    federation: str
    method: str
    seed: int
    rate: float
    scored: str

    @classmethod
    def of(cls, line: Line) -> "Run":
        return cls(*(line[name] for name in cls.__dataclass_fields__))


def measured(run: Run, settings: Mapping[str, Any], shared: Path) -> dict[str, Any]:
    """The line of a run: its scores and costs, or the reason for which there are none."""
    changes = {**settings, "method": run.method, "seed": run.seed, "train.lr": run.rate, "data.score_rows": run.scored}
    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            summary = run_settings(resolve(overrides=changes), Path(folder, "run"), shared=shared)[run.method]
    except Exception as error:  # whatever it is, the other methods are measured
        kind = "" if isinstance(error, FedLeaseError) else f"{type(error).__name__}: "
        return {**asdict(run), "failed": " ".join(f"{kind}{error}".split())}
    return {
        **asdict(run),
        **{key: getattr(summary, key) for key in ("mean", "bytes_up", "bytes_down", "num_experts", "passes")},
        "per_task": dict(summary.per_task),
        "majority": summary.majority_mean,
        "worst": summary.worst_score,
        "seconds": round(sum(summary.seconds.values()), 2),
        "wall": round(time.perf_counter() - started, 2),
    }


def chosen(lines: Sequence[Line], federation: str, method: str, seed: int, rates: Sequence[float]) -> float | None:
    """The rate with the best validation score; None until all are tried, or if none has a score."""
    tried = {run.rate: line.get("mean") for line in lines if (run := Run.of(line)).scored == "valid"
             and (run.federation, run.method, run.seed) == (federation, method, seed)}  # fmt: skip
    scores = {rate: tried[rate] for rate in sorted(rates) if tried.get(rate) is not None}
    return max(scores, key=lambda rate: scores[rate]) if scores and tried.keys() >= {*rates} else None


def missing(
    lines: Sequence[Line],
    federations: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    rates: Sequence[float],
) -> Iterator[Run]:
    """The runs that can begin now: first those that choose a rate, then seed by seed."""
    done = {Run.of(line) for line in lines}
    for federation in federations:
        tuning = [Run(federation, m, seeds[0], rate, "valid") for m in methods for rate in sorted(rates)]
        best = {m: chosen(lines, federation, m, seeds[0], rates) for m in methods}
        final = [Run(federation, m, seed, best[m] or 0, "test") for seed in seeds for m in methods if best[m]]
        yield from (run for run in (*tuning, *final) if run not in done)


def measure(arguments: argparse.Namespace, settings: Mapping[str, Mapping[str, Any]], methods: Sequence[str]) -> None:
    """Runs what is missing in processes of their own, and writes each line as its run ends."""
    begun = time.monotonic()
    lines = [line for line in read(arguments.file) if "failed" not in line]
    running: dict[Future[dict[str, Any]], Run] = {}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch, ProcessPoolExecutor(arguments.workers, context) as pool:
        while True:
            started = {*running.values()}
            for run in missing(lines, list(settings), methods, arguments.seeds, arguments.rates):
                if len(running) >= arguments.workers or time.monotonic() - begun > arguments.budget_seconds:
                    break
                if run not in started:
                    running[pool.submit(measured, run, settings[run.federation], Path(scratch, "shared"))] = run
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                lines.append(line := future.result())
                with arguments.file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                result = line.get("failed") or f"{100 * line['mean']:.1f} %, {line['wall']:.0f} s"
                name = " ".join(str(value) for value in asdict(Run.of(line)).values())
                print(f"{time.monotonic() - begun:6.0f} s  {name}: {result}", file=sys.stderr, flush=True)


def table(lines: Sequence[Line], seeds: Sequence[int], rates: Sequence[float]) -> str:
    """A table for each federation, best method first, and below it what failed; in Markdown."""
    text = []
    for federation in dict.fromkeys(line["federation"] for line in lines):
        own = {Run.of(line): line for line in lines if line["federation"] == federation}  # the last of each run
        rows, failed = [], []
        for method in dict.fromkeys(run.method for run in own):
            rate = chosen(list(own.values()), federation, method, seeds[0], rates)
            tests = [own.get(Run(federation, method, seed, rate or 0, "test")) for seed in seeds]
            found = [line for line in tests if line is not None and "mean" in line]
            if found:
                rows.append((fmean(line["mean"] for line in found), method, rate, found))
            why = {line["failed"]: None for run, line in own.items() if run.method == method and "failed" in line}
            failed += [f"- `{method}` failed: {reason}" for reason in why]
        tasks = sorted({task for *_, found in rows for line in found for task in line["per_task"]})
        columns = ("method", *tasks, "mean, %", f"seeds {', '.join(map(str, seeds))}", "lr", "up, MB", "down, MB", "s")
        text += [f"{federation}:", "", _row(columns), _row(["---", *["---:"] * (len(columns) - 1)])]
        for mean, method, rate, found in sorted(rows, key=lambda row: (-row[0], row[1])):
            values = [line["mean"] for line in found]
            spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
            each = [f"{100 * fmean(line['per_task'][task] for line in found):.1f}" for task in tasks]
            costs = [f"{fmean(line[key] for line in found) / 1e6:.1f}" for key in ("bytes_up", "bytes_down")]
            seconds = f"{fmean(line['seconds'] for line in found):.0f}"
            seen = ", ".join(f"{100 * value:.1f}" for value in values)
            text.append(_row([f"`{method}`", *each, f"{100 * mean:.1f}{spread}", seen, f"{rate:g}", *costs, seconds]))
        text += ["", *failed, *[""] * bool(failed)]
    return "\n".join(text)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, received {text!r}")
    return key, value


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/method_table.py")
    parser.add_argument("file", type=Path, help="JSON lines, one per run; is added to")
    parser.add_argument("--rows", type=Path, help="folder of GLUE files; without it the quickstart alone")
    parser.add_argument("--methods", default="all", help="names with commas between")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1])
    parser.add_argument("--rates", type=lambda text: [float(rate) for rate in text.split(",")], default=[1e-3, 3e-3])
    parser.add_argument("--only", choices=FEDERATIONS, help="one federation")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, each in a process of one thread")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"), help="no run begins later")
    parser.add_argument("--set", action="append", default=[], type=_pair, metavar="KEY=VALUE", help="for all runs")
    parser.add_argument("--table", action="store_true", help="print the table of what there is, and run nothing")
    parser.add_argument("--smoke", action="store_true", help="a tiny model: does it run; figures mean nothing")
    arguments = parser.parse_args(argv)
    methods = [variant.method for variant in variants_of(arguments.methods.split(","))]
    changes = {**COMMON, "device": arguments.device, **dict(arguments.set)}
    places = {"quickstart": {}, **({"glue": {"data.path": str(arguments.rows)}} if arguments.rows else {})}
    names = [name for name in places if arguments.only in (None, name)]
    settings = {name: {**FEDERATIONS[name], **places[name], **changes, **(SMOKE if arguments.smoke else {})}
                for name in names}  # fmt: skip
    if not arguments.table:
        try:
            measure(arguments, settings, methods)
        except BrokenProcessPool:  # as where memory runs out
            print("a process of the pool died; the same call with fewer --workers goes on", file=sys.stderr)
            return 1
    lines = read(arguments.file)
    print(table(lines, arguments.seeds, arguments.rates))
    return 1 if any("failed" in line for line in {Run.of(line): line for line in lines}.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
