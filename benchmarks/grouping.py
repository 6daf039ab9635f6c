"""Agreement of clusters with tasks, by clients per task, epochs of warm-up, and the matrices that are compared.

    python benchmarks/grouping.py DIR --out FILE [--seeds 0,1,2,3,4] [--rows 400] [--clients 4] [--epochs 1,2,4]

``DIR`` holds rows of SST-2, QNLI, MRPC and QQP with the column names of the hub. Every client warms up once, for the
largest number of epochs. A snapshot after fewer epochs equals a shorter warm-up, since batches and learning rate do not
depend on the number of epochs to come. Smaller federations take the first clients of each task. One line per seed is
appended to ``FILE``; seeds that the file already has are skipped.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from fedlease.client.training import Trainer
from fedlease.config.settings import Settings, resolve
from fedlease.core.adapters import a_matrices, b_matrices
from fedlease.core.allocate import allocate
from fedlease.core.distances import distances, product_distances
from fedlease.core.types import ClientId, ClientTask, Stage, Tensors
from fedlease.runs.machine import resolve_machine
from fedlease.runs.open import Prepared, optimiser_of, prepare

SIGNALS = ("B", "A", "BA")
States = dict[int, dict[ClientId, Tensors]]
"""Epochs -> client -> its tensors after that many."""


def warm_up(prepared: Prepared, client: ClientId, epochs: Sequence[int]) -> dict[int, dict[str, Tensor]]:
    """Trains one client; returns epochs -> its A and B after that many."""
    loaded = prepared.loaded
    adapter, optimiser, resident = loaded.adapter, optimiser_of(loaded.settings), loaded.resident
    head = prepared.heads[client].tensors
    tensors = {**adapter.tensors, **head}
    names = frozenset(adapter.tensors)
    task = ClientTask(
        "warmup",
        0,
        type(adapter)(adapter.spec, tensors),
        (Stage(names | frozenset(head), max(epochs)),),
        upload=names,
    )
    rows = prepared.clients[client]
    resident.load(task.model, len(rows.data.labels))
    steps = -(-len(rows.train) // optimiser.batch_size)
    kept = {}

    def keep(client: ClientId, done: int, total: int, loss: float) -> None:
        if done % steps == 0 and done // steps in epochs:
            kept[done // steps] = resident.read(names)

    Trainer(resident, optimiser).train(client, task, rows.train, keep)
    return kept


def grouped(states: Mapping[ClientId, Tensors], tasks: Mapping[ClientId, str], signal: str) -> dict[str, Any]:
    """M, S(k) and adjusted Rand index against the tasks of one clustering, and the index with M set to the truth."""
    b = {client: b_matrices(tensors) for client, tensors in states.items()}
    a = {client: a_matrices(tensors) for client, tensors in states.items()}
    clients, d = {"B": lambda: distances(b), "A": lambda: distances(a), "BA": lambda: product_distances(b, a)}[signal]()
    found = allocate(b, d=d)
    # One step leaves every A as it was: nothing to group by.
    told = bool(d.max() > 0)
    known = allocate(b, d=d, num_experts=len(set(tasks.values())) if told else 1)
    truth = [tasks[client] for client in clients]

    def index(assignment: Mapping[ClientId, int]) -> float:
        return float(adjusted_rand_score(truth, [assignment[client] for client in clients]))

    same = [float(d[i, j]) for i in range(len(clients)) for j in range(i) if tasks[clients[i]] == tasks[clients[j]]]
    other = [float(d[i, j]) for i in range(len(clients)) for j in range(i) if tasks[clients[i]] != tasks[clients[j]]]
    return {
        "experts": found.num_experts,
        "index": index(found.assignment),
        "index_at_tasks": index(known.assignment),
        "silhouettes": {str(k): round(s, 4) for k, s in found.silhouettes.items()},
        "within": mean(same),
        "between": mean(other),
    }


def settings_of(data: Path, rows: int, clients: int, seed: int, threads: int) -> Settings:
    changes = {
        "data.path": str(data), "data.train_rows": rows, "data.test_rows": 10, "data.clients_per_task": clients,
        "seed": seed, "threads": threads,
    }  # fmt: skip
    return resolve_machine(resolve(preset="glue-small", overrides=changes))


def one_seed(settings: Settings, epochs: Sequence[int]) -> list[dict[str, Any]]:
    """Clusters one seed's warm-ups in every way."""
    prepared = prepare(settings)
    states: States = {count: {} for count in epochs}
    for client in sorted(prepared.clients):
        for count, tensors in warm_up(prepared, client, epochs).items():
            states[count][client] = tensors
    tasks = {client.id: client.task for client in prepared.federation}
    found = []
    for per_task in sorted({2, settings.data.clients_per_task}):
        members = {client for client in tasks if int(client.rsplit("-", 1)[1]) < per_task}
        for count in epochs:
            for signal in SIGNALS:
                some = {client: states[count][client] for client in members}
                result = grouped(some, tasks, signal)
                found.append({"clients_per_task": per_task, "epochs": count, "signal": signal, **result})
    return found


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Tabulates means over seeds, as Markdown."""
    cells: dict[tuple[int, int, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        for cell in line["found"]:
            cells.setdefault((cell["clients_per_task"], cell["epochs"], cell["signal"]), []).append(cell)
    text = [
        "| clients per task | E | compared | M by seed | index by seed | mean index | at M = 4 | d within / between |",
        "| ---: | ---: | --- | --- | --- | ---: | ---: | --- |",
    ]
    for (per_task, epochs, signal), found in sorted(cells.items()):
        chosen = ", ".join(str(cell["experts"]) for cell in found)
        indices = ", ".join(f"{cell['index']:.2f}" for cell in found)
        both = f"{mean(c['within'] for c in found):.2f} / {mean(c['between'] for c in found):.2f}"
        text.append(
            f"| {per_task} | {epochs} | {signal} | {chosen} | {indices} | {mean(c['index'] for c in found):.2f} | "
            f"{mean(c['index_at_tasks'] for c in found):.2f} | {both} |"
        )
    return "\n".join(text)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/grouping.py")
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--epochs", default="1,2,4")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    lines = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.is_file() else []
    torch.set_num_threads(arguments.threads)
    for seed in map(int, arguments.seeds.split(",")):
        if seed in {line["seed"] for line in lines}:
            continue
        settings = settings_of(arguments.data, arguments.rows, arguments.clients, seed, arguments.threads)
        epochs = [int(count) for count in arguments.epochs.split(",")]
        lines.append({"seed": seed, "found": one_seed(settings, epochs)})
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
