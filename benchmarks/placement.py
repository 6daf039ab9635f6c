"""How often late clients are placed with the expert of their own task; warm-ups only, no rounds.

    python benchmarks/placement.py DIR --out OUT [--seeds 0,1,2,3,4] [--rows 250] [--clients 3]

``DIR`` holds rows of SST-2, QNLI, MRPC and QQP with the column names of the hub. The last client of every task comes
late: the others make a run without rounds, then each late client is onboarded. Seeds that ``OUT`` already has are
skipped, so that an interrupted script can be continued.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from statistics import mean
from typing import Any

from fedlease.config.settings import Settings, resolve
from fedlease.data.load import load_federation
from fedlease.data.sources.folder import write_folder
from fedlease.runs.runner import resume, run_settings
from fedlease.use.onboard import onboard
from fedlease.use.open_run import OpenRun


def one_seed(data: Path, out: Path, seed: int, rows: int, clients: int, threads: int) -> list[dict[str, Any]]:
    """Runs one seed; returns each late client's ``onboarding.json``, with the tasks of the experts' clients."""
    dealt = {"data.path": str(data), "data.train_rows": rows, "data.test_rows": 60, "data.clients_per_task": clients}
    federation = list(load_federation(resolve(preset="glue-small", overrides={**dealt, "seed": seed}).data, seed))
    late = {client.id: client for client in federation if client.id.endswith(f"-{clients - 1}")}
    if not (out / "all").exists():
        write_folder((client for client in federation if client.id not in late), out / "in-run")
        write_folder(late.values(), out / "late")
        (out / "all").touch()
    run = out / "run"
    if not (run / "summary.json").is_file():
        settings = settings_of(out / "in-run", seed, threads)
        resume(run) if (run / "config.yaml").is_file() else run_settings(settings, run)
    opened = OpenRun(run)
    for client in late:
        if client not in opened.clients:
            onboard(opened, client, out / "late" / client, epochs=0)
    summary = json.loads((run / "summary.json").read_text())
    tasks = {expert: Counter() for expert in summary["assignment"].values()}  # type: dict[int, Counter[str]]
    for client, expert in summary["assignment"].items():
        tasks[expert][summary["per_client"][client]["task"]] += 1
    found = []
    for client in late:
        content = json.loads((run / "onboarded" / client / "onboarding.json").read_text())
        found.append({**content, "seed": seed, "experts": {e: dict(count) for e, count in sorted(tasks.items())}})
    return found


def settings_of(data: Path, seed: int, threads: int) -> Settings:
    """Makes the GLUE preset's settings for files, without rounds."""
    changes = {"data.source": "folder", "data.path": str(data), "seed": seed, "threads": threads}
    return resolve(preset="glue-small", overrides={**changes, "rounds": 0, "baselines": []})


def main() -> None:
    """Runs the seeds and prints the matrix: the late client's task by the tasks of the experts' clients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--rows", type=int, default=250)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    for seed in map(int, arguments.seeds.split(",")):
        folder = arguments.out / f"seed-{seed}"
        found += one_seed(arguments.data, folder, seed, arguments.rows, arguments.clients, arguments.threads)
    tasks = sorted({entry["task"] for entry in found})
    print(f"placed with an expert that clients of the same task train: {sum(map(right, found))} of {len(found)}")
    print(f"called unlike any: {sum(entry['unlike'] for entry in found)} of {len(found)}")
    print("mean distance of a late client (row) to experts whose clients are of a task (column)")
    print("| | " + " | ".join(tasks) + " | margin | placed with |")
    print("| --- |" + " ---: |" * (len(tasks) + 1) + " --- |")
    for task in tasks:
        rows = [entry for entry in found if entry["task"] == task]
        cells = []
        for other in tasks:
            near = [d for e in rows for k, d in enumerate(e["distances"]) if other in e["experts"].get(k, {})]
            cells.append(f"{mean(near):.3f}")
        margins = [entry["margin"] for entry in rows if entry["margin"] is not None]
        where = Counter("+".join(entry["experts"][entry["expert"]]) for entry in rows)
        placed = ", ".join(f"{name} x {count}" for name, count in where.most_common())
        print(f"| {task} | {' | '.join(cells)} | {mean(margins):.3f} | {placed} |")
    for seed in sorted({entry["seed"] for entry in found}):
        experts = next(entry["experts"] for entry in found if entry["seed"] == seed)
        print(f"seed {seed}: {len(experts)} experts: {experts}")


def right(entry: dict[str, Any]) -> bool:
    """Whether the expert's clients include one of the newcomer's task."""
    return entry["task"] in entry["experts"][entry["expert"]]


if __name__ == "__main__":
    main()
