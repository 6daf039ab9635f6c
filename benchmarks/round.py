"""A round of sixteen clients over one resident model, against reloading the base and against swapping PEFT adapters.

    python benchmarks/round.py [--smoke] [--json FILE]

All ways do the same work on the same rows with the same local step, and must produce the same uploads.
"""

import math
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from measure import interleave, spread, use_all_cores
from output import Report, Table, at_least, entry
from torch import Tensor

from fedlease.client.resident import ResidentModel
from fedlease.client.training import Optimiser, Trainer
from fedlease.core.adapters import initial_adapter
from fedlease.core.types import Budget, ClientModel, ClientTask, ClientUpdate, Tensors, head_names
from fedlease.methods.fedlease import FedLease
from fedlease.methods.head import Head, with_head
from fedlease.models.base import BaseModel, initial_head, load_base
from fedlease.models.sources import ModelSource, locate
from fedlease.models.targets import target_shapes
from fedlease.peft_plugin.state import adapter_parameters, copy_into, head_parameters, peft_config_for, wrap
from fedlease.tasks.encoded import Encoded

CLIENTS = [f"client-{i:02}" for i in range(16)]
CPU = torch.device("cpu")
LABELS, EXPERTS, BATCH = 2, 4, 16
Ready = Callable[[str, ClientTask], ResidentModel]


class Swapping(ResidentModel):
    """One PEFT model with an adapter per client, as plain PEFT offers it.

    Args:
        base: the frozen model.
        keep: whether a client's adapter stays for later rounds, or is added and deleted in each.
    """

    def __init__(self, base: BaseModel, keep: bool) -> None:
        super().__init__(base, CPU)
        self.keep = keep
        self.current = ""

    def take(self, client: str, model: ClientModel) -> None:
        config = peft_config_for(model.spec)
        if self._model is None:
            self._model = wrap(self._base.model, config)  # the first adapter is called "default" and never used
        with warnings.catch_warnings():
            # PEFT asks transformers 5 for a property that it has renamed.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            if self.current and not self.keep:
                self.model.set_adapter("default")  # PEFT warns when the active adapter is deleted
                self.model.delete_adapter(self.current)
            if client not in self.model.peft_config:
                self.model.add_adapter(client, config)
        self.model.set_adapter(client)
        self.current = client
        for name, module in self.head_modules(LABELS).items():
            self._base.model.set_submodule(name, module)
        heads = head_parameters(self._base.model, self._base.head_modules)
        self.parameters = {**adapter_parameters(self.model, client), **heads}
        copy_into(self.parameters, model.tensors)

    def restrict(self, experts: tuple[int, ...] | None) -> None:
        assert experts is None  # no stage of these rounds restricts


def tasks_of_round(base: BaseModel, routed: bool, r: int) -> dict[str, ClientTask]:
    """Every client's task in FedLEASE: of the warm-up (plain LoRA), or of a round with four planted experts."""
    adapter = initial_adapter(target_shapes(base, None, r), r=r, alpha=16.0, dropout=0.0, seed=0)
    tensors = initial_head(ResidentModel(base, CPU).head_modules(LABELS), 0)
    heads = {client: Head(("no", "yes"), tensors) for client in CLIENTS}
    method = with_head(FedLease(Budget(1, 10)), "local", heads)
    state = method.init(adapter, dict.fromkeys(CLIENTS, 1), 0)
    tasks = {client: method.task(state, client) for client in CLIENTS}
    if routed:
        updates = []
        for number, client in enumerate(CLIENTS):
            generator = torch.Generator().manual_seed(number % EXPERTS)
            planted = {
                name: adapter.tensors[name] + 0.02 * torch.randn(adapter.tensors[name].shape, generator=generator)
                for name in sorted(tasks[client].upload)
            }
            updates.append(ClientUpdate(client, "warmup", 0, 1, planted))
        state = method.aggregate(state, updates)
        tasks = {client: method.task(state, client) for client in CLIENTS}
        assert tasks[CLIENTS[0]].model.spec.num_experts == EXPERTS
    return tasks


def encoded(client: int, rows: int, tokens: int, vocabulary: int) -> Encoded:
    generator = torch.Generator().manual_seed(100 + client)
    ids = torch.randint(min(1000, vocabulary // 2), vocabulary, (rows, tokens), generator=generator).tolist()
    return Encoded.of({"input_ids": ids}, [i % LABELS for i in range(rows)], 0, left=False)


class Round:
    """One way of doing a round; stores the last uploads, and each round's time outside training."""

    def __init__(self, ready: Ready, tasks: Mapping[str, ClientTask], rows: Mapping[str, Encoded], cores: int) -> None:
        self.ready, self.tasks, self.rows = ready, tasks, rows
        self.optimiser = Optimiser(1e-3, 0.01, BATCH, 1.0, cores, 0)
        self.uploads: dict[str, Tensors] = {}
        self.beside: list[float] = []

    def __call__(self) -> None:
        started, training = time.perf_counter(), 0.0
        for client, task in self.tasks.items():
            result = Trainer(self.ready(client, task), self.optimiser).train(client, task, self.rows[client])
            self.uploads[client] = result.update.tensors
            training += result.seconds
        self.beside.append(time.perf_counter() - started - training)


def ways(source: ModelSource, base: Callable[[], BaseModel]) -> dict[str, Ready]:
    resident = ResidentModel(base(), CPU)
    swapping = {keep: Swapping(base(), keep) for keep in (True, False)}

    def ours(client: str, task: ClientTask) -> ResidentModel:
        resident.load(task.model, LABELS)
        return resident

    def reload(client: str, task: ClientTask) -> ResidentModel:
        fresh = ResidentModel(base(), CPU)
        fresh.load(task.model, LABELS)
        return fresh

    def swap(keep: bool) -> Ready:
        def ready(client: str, task: ClientTask) -> ResidentModel:
            swapping[keep].take(client, task.model)
            return swapping[keep]

        return ready

    return {"resident": ours, "reload": reload, "PEFT, adapters kept": swap(True), "PEFT, added each time": swap(False)}


def assert_same_uploads(rounds: Mapping[str, Round]) -> None:
    first, *others = rounds.values()
    for other in others:
        for client in CLIENTS:
            assert other.uploads[client].keys() == first.uploads[client].keys() == first.tasks[client].upload
            assert not head_names(other.uploads[client])
            for name, tensor in first.uploads[client].items():
                close: Tensor = torch.isclose(tensor, other.uploads[client][name], rtol=1e-3, atol=1e-6)
                assert bool(close.all()), f"{client}: {name} differs between the ways"


def measure(smoke: bool) -> Report:
    cores = use_all_cores()
    name, tokens, r = ("tiny-random", 6, 4) if smoke else ("minilm", 28, 8)
    # Routed or not, rows per client, passes. With more rows, training outweighs everything else.
    cells = [(True, 16, 1), (False, 16, 1)] if smoke else [(True, 32, 3), (True, 64, 2), (False, 32, 2)]
    lines, raw, gained, saved = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        source = locate(name, None, Path(folder), 0)

        def base() -> BaseModel:
            return load_base(source, dtype="float32", dropout=False)

        vocabulary = base().model.config.vocab_size  # type: ignore[union-attr]
        for routed, rows, passes in cells:
            tasks = tasks_of_round(base(), routed, r)
            data = {client: encoded(i, rows, tokens, vocabulary) for i, client in enumerate(CLIENTS)}
            rounds = {way: Round(ready, tasks, data, cores) for way, ready in ways(source, base).items()}
            timed = interleave(rounds, passes, warmup=1)
            assert_same_uploads(rounds)
            for way, work in rounds.items():
                lines.append(
                    [
                        "routed, M = 4" if routed else "plain LoRA",
                        f"{rows} rows, {math.ceil(rows / BATCH)} steps",
                        way,
                        timed.of(way).text(2),
                        timed.ratio(way, "resident").text(),
                        f"{spread(work.beside[1:]).median / len(CLIENTS) * 1e3:.1f}",
                    ]
                )
            if routed and rows == 32:
                gained.append(timed.ratio("reload", "resident").median)
                ours, theirs = (spread(rounds[way].beside[1:]).median for way in ("resident", "reload"))
                saved.append(theirs / ours)
            beside = {way: work.beside[1:] for way, work in rounds.items()}
            raw.append({"routed": routed, "rows": rows, "seconds": timed.seconds, "beside_training": beside})
    table = Table(
        f"A round of {len(CLIENTS)} clients, {name}, rows of {tokens} tokens, batch {BATCH}, {cores} threads",
        ["adapter", "per client", "way", "round, s", "/ resident", "per client beside training, ms"],
        lines,
        [
            "reload: the base is read (from the system's file cache) and wrapped for every client. PEFT, adapters "
            "kept: one PEFT model with sixteen adapters, set_adapter per client. PEFT, added each time: add_adapter, "
            "set_adapter and delete_adapter per client. Every way ends in the same uploads (asserted).",
        ],
    )
    text = "round of 16 clients with 32 rows: at least 3 x faster than reloading the base"
    targets = [at_least(f"{text}, training included", gained, 3.0), at_least(f"{text}, training left out", saved, 3.0)]
    return Report("What does one resident model save in a round?", [table], targets, {"cells": raw})


if __name__ == "__main__":
    entry("round", measure)
