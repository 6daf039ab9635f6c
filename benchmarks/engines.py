"""What Flower adds to a run in one process, and how a federation grows to a thousand clients.

    python benchmarks/engines.py simulation [--preset NAME] [--set KEY=VALUE ...] [--passes N] [--smoke] [--json FILE]
    python benchmarks/engines.py scale [--clients 100,1000] [--engine process|memory|ray] [--set ...] [--smoke]

``simulation``: the same settings by ``run_settings`` in one process, the floor, and by ``simulate`` over Ray with one
worker, in turn, each in a fresh process. ``scale``: a planted federation on the tiny model, one twentieth of the
clients a step, through warm-up, allocation, five rounds and final scores. With ``memory`` the nodes live in a process
of their own behind the grid in memory, so that time and memory of the server are the server's; with ``ray`` they are
Ray's workers, and what the nodes remember is in the server's process; with ``process`` everything is in one, and the
server's seconds are those that no client trained or scored in. Floor: growth in proportion to the clients.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from memory import memory_of_process
from output import Report, Table, at_most, entry

from fedlease.config.settings import Settings, resolve
from fedlease.reporting.quiet import quiet_libraries
from fedlease.server import events

NAME, MB = "flower", 1e6
Result = dict[str, Any]
NOTHING: Result = {"seconds": 0.0, "nodes": 0.0, "train": 0.0, "evaluate": 0.0, "peak": 0}


def shares(part: Result) -> tuple[float, float, float]:
    """All seconds, those of training, those of nothing that clients do."""
    return part["seconds"], part["train"], part["seconds"] - part["train"] - part["evaluate"]


class Clock:
    """A listener: seconds, the nodes' own seconds and peak memory of every part of the main method's run."""

    def __init__(self) -> None:
        self.parts: dict[str, Result] = {}
        self.of_nodes: Callable[[], float] = lambda: 0.0
        self.since, self.nodes_since = time.perf_counter(), 0.0
        self.experts = 0

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.StepStarted) and not self.parts:
            self.stop("start")
        elif isinstance(event, events.ClientFinished) and event.phase == "warmup":
            self.stop("warm-up")  # what is between two of them is, what is after the last is not
        elif isinstance(event, events.Allocated):
            self.experts = event.allocation.num_experts
        elif isinstance(event, events.StepFinished):
            number = event.record["round"]
            name = f"round {number}" if number else "warm-up"
            self.stop("allocation" if self.experts and not number else name)
            for key in ("train", "evaluate"):
                self.parts[name][key] += event.record["seconds"][key]
        elif isinstance(event, events.MethodFinished):
            self.stop("final scores")
        elif isinstance(event, events.RunFinished):
            self.stop("report")

    def stop(self, name: str) -> None:
        """Everything since the last stop was this part."""
        now, nodes = time.perf_counter(), self.of_nodes()
        part = self.parts.setdefault(name, dict(NOTHING))
        part["seconds"] += now - self.since
        part["nodes"] += nodes - self.nodes_since
        part["peak"] = max(part["peak"], peak_since_last())
        self.since, self.nodes_since = now, nodes


def peak_since_last() -> int:
    """Largest memory of this process since this was last asked (Linux)."""
    peak = memory_of_process()[1]
    Path("/proc/self/clear_refs").write_text("5")
    return peak


def nodes(connection: Any, settings: Settings, configs: dict[int, dict[str, Any]]) -> None:
    """The process of the nodes: takes messages, and gives replies with the seconds that they took."""
    quiet_libraries()
    from fedlease.flower.clientapp import client_app
    from fedlease.flower.memory_grid import MemoryGrid

    grid = MemoryGrid(client_app(), configs)
    while (message := connection.recv()) is not None:
        started = time.perf_counter()
        reply = grid._deliver(message)
        connection.send((reply, time.perf_counter() - started))
    connection.send(memory_of_process()[1])


def over_memory(settings: Settings, out: Path, clocks: list[Clock]) -> Result:
    """A run over the grid in memory, whose nodes are in another process."""
    from fedlease.data.load import load_federation
    from fedlease.flower.memory_grid import MemoryGrid
    from fedlease.flower.strategy import FedLeaseStrategy

    count = len(load_federation(settings.data, settings.seed, settings.task))
    settings = settings.model_copy(update={"flower": settings.flower.model_copy(update={"min_nodes": count})})
    configs = {900_000 + i: {"partition-id": i, "num-partitions": count} for i in range(count)}
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=nodes, args=(there, settings, configs), daemon=True)
    process.start()
    there.close()  # else a nodes' process that dies would be waited for

    class Elsewhere(MemoryGrid):
        seconds = 0.0

        def _deliver(self, message: Any) -> Any:
            here.send(message)
            reply, seconds = here.recv()
            self.seconds += seconds
            return reply

    grid = Elsewhere(None, {node: {} for node in configs})  # type: ignore[arg-type]  # the app is in the other process
    clocks[0].of_nodes = lambda: grid.seconds
    FedLeaseStrategy(settings, out, clocks).start(grid)
    here.send(None)
    peak = here.recv()
    process.join()
    return {"nodes_peak": peak}


def noted(folder: Path, context: Any, settings: Settings) -> Any:
    """Gives a client's rows as ever, and notes how often this worker has loaded a base model."""
    from fedlease.flower import handler

    (folder / str(os.getpid())).write_text(str(handler._node_run.cache_info().misses))
    return handler.rows_of_node(context, settings)


def in_process(settings: Settings, out: Path, clocks: list[Clock]) -> Result:
    """A run in this process."""
    from fedlease.runs.runner import run_settings  # here, so that no engine pays for torch in its first part

    run_settings(settings, out, clocks)
    return {}


def over_ray(settings: Settings, out: Path, clocks: list[Clock]) -> Result:
    """A simulation with one worker process."""
    from fedlease.flower import clientapp, simulation

    (folder := out.with_name("loads")).mkdir()
    # simulate takes the function when it is called.
    clientapp.client_app = partial(clientapp.client_app, partial(noted, folder))
    simulation.simulate(settings, out, clocks, workers=1)
    clocks[0].stop("end")
    return {"loads": [int(path.read_text()) for path in sorted(folder.iterdir())]}


def child(engine: str, given: str) -> None:
    """One run in this process; what was measured as JSON."""
    quiet_libraries()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as folder:
        out, clock = Path(folder) / "run", Clock()
        before, _ = memory_of_process()[0], peak_since_last()
        engines: dict[str, Callable[..., Result]] = {"process": in_process, "memory": over_memory, "ray": over_ray}
        more = engines[engine](Settings.model_validate_json(given), out, [clock])
        files = {str(path.relative_to(out)): path.stat().st_size for path in out.rglob("*") if path.is_file()}
    found = {"parts": clock.parts, "experts": clock.experts, "before": before, "files": files}
    print(json.dumps(found | more))


def measured(engine: str, settings: Settings) -> Result:
    """A run in a fresh process."""
    words = [sys.executable, __file__, "--child", engine, settings.model_dump_json()]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return {"engine": engine, **json.loads(done.stdout.splitlines()[-1])}


def simulation(preset: str, changes: Sequence[str], passes: int, smoke: bool) -> Report:
    """Part one."""
    fixed = ["baselines=[]", "threads=1", "device=cpu"]
    fixed += ["data.clients_per_task=1", "rounds=1", "data.train_rows=8", "data.test_rows=8"] if smoke else []
    settings = resolve(preset="smoke" if smoke else preset, overrides=[*fixed, *changes])
    pairs = [(measured("process", settings), measured("ray", settings)) for _ in range(1 if smoke else passes)]
    lines, rounds = list[list[str]](), list[tuple[float, float]]()
    for name in pairs[0][1]["parts"]:
        both = [tuple(run["parts"].get(name, NOTHING) for run in pair) for pair in pairs]
        floor, flower = (list(map(statistics.median, np.transpose([shares(b[e]) for b in both]))) for e in (0, 1))
        row = [name, *(f"{values[i]:.2f}" for i in range(3) for values in (floor, flower))]
        if not flower[1]:
            lines.append([*row[:3], *[""] * 6])  # clients do not say what their final scores took
            continue
        added = statistics.median(100 * (b["seconds"] - a["seconds"]) / a["train"] for a, b in both)
        beside = statistics.median(100 * (shares(b)[2] - shares(a)[2]) / b["train"] for a, b in both)
        rounds += [(added, beside)] if name.startswith("round") else []
        lines.append([*row, f"{added:.1f}", f"{beside:.1f}"])
    starting = statistics.median(b["parts"]["start"]["seconds"] - a["parts"]["start"]["seconds"] for a, b in pairs)
    loads, rounds = [run["loads"] for _, run in pairs], [] if smoke else rounds
    columns = [f"{what}, {where}" for what in ("s", "training", "rest") for where in ("process", "Flower")]
    table = Table(
        f"{settings.model}, data {settings.data.source}, threads = {settings.threads}: one process, and one Ray worker",
        ["part", *columns, "Flower adds, % of training", "beside clients' work, %"],
        lines,
        [
            f"Medians of {len(pairs)} passes, in turn. rest: without what clients spent training and scoring, so that "
            "a neighbour on the machine who slows one of the two runs hardly counts. "
            f"Ray and its worker start {starting:.1f} s later than one process; see start.",
            f"Base models loaded by each worker process, by pass: {'; '.join(map(str, loads))}.",
        ],
    )
    targets = [
        at_most("a round over Flower adds at most 10 % of its training", [added for added, _ in rounds], 10),
        at_most("the same, beside clients' work", [beside for _, beside in rounds], 10),
        at_most("base models loaded per worker: 1", [max(each) for each in loads if rounds], 1),
    ]
    return Report("What does a Flower simulation add?", [table], targets, {"pairs": pairs})


def scale(counts: Sequence[int], engine: str, changes: Sequence[str], smoke: bool) -> Report:
    """Part two."""
    server, results = engine != "ray", list[Result]()
    for count in [8, 16] if smoke else counts:
        fixed = [
            "baselines=[]", f"data.clients_per_task={count // 4}", "data.train_rows=8", "data.test_rows=8",
            "data.max_tokens=24", "warmup.epochs=1", f"rounds={2 if smoke else 5}", "eval_every=1000", "device=cpu",
            f"clients_per_round={max(2, count // 20)}", "min_silhouette=-1",
        ]  # fmt: skip
        found = measured(engine, resolve(preset="smoke", overrides=[*fixed, *changes]))
        results.append({"clients": count // 4 * 4, **found, "parts": with_mean_round(found["parts"])})
    more = results[-1]["clients"] / results[0]["clients"]
    lines, grown = list[list[str]](), list[float]()
    for name in results[-1]["parts"]:
        parts = [found["parts"].get(name, NOTHING) for found in results]
        within = [part["train"] + part["evaluate"] if engine == "process" else part["nodes"] for part in parts]
        own = [part["seconds"] - of_clients for part, of_clients in zip(parts, within, strict=True)]
        growth = own[-1] / own[0] if own[0] > 0 else float("nan")
        grown += [growth / more] if own[-1] >= 1 and name not in ("start", "end", "in all") else []
        cells = [
            (f"{part['seconds']:.2f}", f"{mine:.2f}" if server else "", f"{part['peak'] / MB:.0f}")
            for part, mine in zip(parts, own, strict=True)
        ]
        lines.append([name, *(cell for triple in cells for cell in triple), f"{growth:.1f}"])
    sizes = []
    for found in results:
        memory = (found["before"], found["parts"]["in all"]["peak"], found.get("nodes_peak", 0))
        largest = sorted(found["files"].items(), key=lambda item: -item[1])[:4]
        words = ", ".join(f"{name[:20]} {size / MB:.1f}" for name, size in largest)
        numbers = (f"{size / MB:.1f}" for size in (*memory, sum(found["files"].values())))
        sizes.append([str(found["clients"]), str(found["experts"]), *numbers, words])
    here = "The server's process also holds what Flower remembers for every node."
    there = "server: without what the nodes' process took; messages go through a pipe between the two."
    if engine == "process":
        there = "server: without what clients trained and scored; final scores are theirs as well."
    note = (
        "start: model and greeting of all nodes. warm-up: in waves, with checkpoints. allocation: from the last answer "
        "to the first round. round: mean. Nobody but those asked is scored before the end. Peak: of the server's "
        f"process in that part. {there if server else here}"
    )
    columns = [f"{found['clients']}: {what}" for found in results for what in ("s", "server, s", "peak, MB")]
    kinds = ["before the run", "server's peak", "nodes' peak", "run folder", "largest files"]
    title = f"one client in twenty a step, grid: {engine}"
    times = Table(f"Time, {title}", ["part", *columns, "grows by"], lines, [note])
    memories = Table(f"MB, {title}", ["clients", "experts", *kinds], sizes)
    judged = [] if smoke or len(results) < 2 else grown
    target = at_most("parts of a second and more grow at most 1.5 times as much as the clients", judged, 1.5)
    return Report("What do many clients take?", [times, memories], [target], {"cells": results})


def with_mean_round(parts: dict[str, Result]) -> dict[str, Result]:
    """The mean of all rounds in their place, and the whole."""
    made = dict[str, Result]()
    count = sum(name.startswith("round ") for name in parts) or 1
    for name, part in (*parts.items(), *(("in all", part) for part in parts.values())):
        short, share = ("round", 1 / count) if name.startswith("round ") else (name, 1.0)
        kept = made.setdefault(short, dict(NOTHING))
        made[short] = {key: kept[key] + share * part[key] for key in NOTHING}
        made[short]["peak"] = max(kept["peak"], part["peak"])
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/engines.py", epilog="and --smoke, --json FILE as for the others")
    parser.add_argument("part", choices=("simulation", "scale"), nargs="?")
    parser.add_argument("--preset", default="quickstart", help="of the simulation")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of settings")
    parser.add_argument("--passes", type=int, default=3, help="of the simulation")
    parser.add_argument("--clients", default="100,1000", help="of scale: numbers of clients, multiples of four")
    parser.add_argument("--engine", choices=("process", "memory", "ray"), default="memory", help="of scale")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given, others = parser.parse_known_args(argv)
    if given.child:
        child(*given.child)
    elif given.part == "simulation":
        entry(NAME, partial(simulation, given.preset, given.set, given.passes), others)
    elif given.part == "scale":
        entry(NAME, partial(scale, [int(word) for word in given.clients.split(",")], given.engine, given.set), others)
    else:
        parser.error("which part: simulation or scale?")


if __name__ == "__main__":
    main()
