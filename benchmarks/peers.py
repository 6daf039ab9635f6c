"""A round of the same federation by Flower's simulation with PEFT and the Trainer of transformers, and by ours.

    python benchmarks/peers.py [--smoke] [--json FILE]      needs the extras quickstart and simulation, and accelerate

Sixteen clients of the quickstart, one shared adapter (``fedit``), one local epoch a round. The peer is written by us in
the manner of Flower's public examples: a ClientApp that loads the base for every message, takes the adapter that it was
sent, trains an epoch by the Trainer and sends the adapter back, with the head in the client's state; FedAvg on the
server; Ray with one worker that has all cores. Ours runs in one process, in float32 and in bfloat16, as it is and
plain: without ``base.skip_unread``, and one client in a step. All run in turn, twice, each in a fresh process, with the
same rows, tokens, batch size and optimiser. The first round of each, in which Ray and the caches start, is left out,
and so is our scoring of every round, which the peer does not do. The processor's time is that of loading and training,
in all threads; it depends less than the clock's on what else the machine does. Floor: the products with the frozen
weights alone, forward and backward, of a round's tokens without padding.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import spread, use_all_cores
from output import Report, Table, at_least, entry
from torch import nn

ROUNDS, PASSES = 3, 2
PEER, FLOORS = "Flower + PEFT + Trainer", ("products, float32", "products, bfloat16")
OURS = ("float32", "float32, plain", "bfloat16", "bfloat16, plain")
WAYS = (PEER, *OURS, *FLOORS)
PARTS = ("load", "train", "other")
TIMES = ("round", *PARTS, "processor")
Seconds = dict[str, float]
"""Of one round, by :data:`TIMES`."""


def settings_of(way: str, smoke: bool) -> Any:
    """Of our run, from which the peer takes its rows, too."""
    from fedlease.config.settings import resolve

    dtype, _, plain = way.partition(", ")
    fixed = {"method": "fedit", "baselines": [], "warmup.epochs": 1, "rounds": ROUNDS - 1, "dtype": dtype}
    fixed |= {"base.skip_unread": False, "clients_per_step": 1} if plain else {}
    if smoke:
        small = {"data.clients_per_task": 1, "data.train_rows": 4, "data.test_rows": 2, "data.max_tokens": 16}
        return resolve(preset="smoke", overrides={**fixed, **small, "threads": use_all_cores()})
    return resolve(preset="quickstart", overrides={**fixed, "data.test_rows": 8, "threads": use_all_cores()})


def ours(folder: Path, way: str, smoke: bool) -> list[Seconds]:
    """Every round, without scoring."""
    from fedlease.client.stacked_training import StackedTrainer
    from fedlease.client.training import Trainer
    from fedlease.runs.runner import run_settings
    from fedlease.server.events import Event, StepFinished

    found, processor = list[Seconds](), list[float]()

    def timed(train: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            begun = time.process_time()
            result = train(*args, **kwargs)
            processor.append(time.process_time() - begun)
            return result

        return wrapped

    def listen(event: Event) -> None:
        if isinstance(event, StepFinished):
            spent = event.record["seconds"]
            whole = spent["step"] - spent["evaluate"]
            parts = {"load": 0.0, "train": spent["train"], "other": whole - spent["train"]}
            found.append({"round": whole, **parts, "processor": sum(processor)})
            processor.clear()

    for trainer in (Trainer, StackedTrainer):
        trainer.train = timed(trainer.train)  # type: ignore[method-assign]
    run_settings(settings_of(way, smoke), folder / "run", [listen])
    return found


def given(folder: Path, smoke: bool) -> dict[str, Any]:
    """What the peer needs of our run, in files that its processes read: the base, and every client's rows."""
    from fedlease.runs.machine import resolve_machine
    from fedlease.runs.open import prepare

    prepared = prepare(resolve_machine(settings_of("float32", smoke)))
    loaded, lengths = prepared.loaded, []
    for place, client in enumerate(prepared.clients.values()):
        columns = {name: list(column) for name, column in client.train.columns.items()}
        names = [*columns, "labels"]
        lines = [
            dict(zip(names, line, strict=True)) for line in zip(*columns.values(), client.train.labels, strict=True)
        ]
        rows = {"rows": lines, "labels": client.num_labels, "pad": client.train.pad_id}
        (folder / f"client-{place}.json").write_text(json.dumps(rows))
        lengths.append(client.train.lengths)
    loaded.resident.unwrapped().save_pretrained(folder / "base")  # type: ignore[operator]
    train, lora = loaded.settings.train, loaded.settings.lora
    targets = sorted({name.rsplit(".", 1)[1] for name in loaded.shapes})
    found = {"lengths": lengths, "batch": train.batch_size, "r": lora.r, "alpha": lora.alpha, "targets": targets}
    found |= {"lr": train.lr, "weight_decay": train.weight_decay, "clip_norm": train.clip_norm or 0.0}
    (folder / "given.json").write_text(json.dumps(found))
    return found


def wrapped(folder: Path, what: Mapping[str, Any], labels: int) -> Any:
    """The base with a fresh adapter, as the peer's clients load it for every message."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(
        folder / "base", num_labels=labels, ignore_mismatched_sizes=True
    )
    config = LoraConfig(r=what["r"], lora_alpha=what["alpha"], target_modules=what["targets"], task_type="SEQ_CLS")
    return get_peft_model(base, config)


def tensors(model: Any, *, adapter: bool) -> dict[str, torch.Tensor]:
    """A and B, or all else that learns: the head."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor for name, tensor in state.items() if ("lora_" in name) == adapter}


def client_app(folder: Path, cores: int) -> Any:
    """The peer's clients."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        from peft import set_peft_model_state_dict
        from transformers import Trainer, TrainingArguments, logging

        logging.set_verbosity_error()
        torch.set_num_threads(cores)
        begun, used = time.perf_counter(), time.process_time()
        place = int(context.node_config["partition-id"])
        what = json.loads((folder / "given.json").read_text())
        client = json.loads((folder / f"client-{place}.json").read_text())
        model = wrapped(folder, what, client["labels"])
        head = context.state["head"].to_torch_state_dict() if "head" in context.state else tensors(model, adapter=False)
        set_peft_model_state_dict(model, {**message.content["arrays"].to_torch_state_dict(), **head})
        loaded = time.perf_counter()
        arguments = TrainingArguments(
            str(folder / f"trainer-{place}"), per_device_train_batch_size=what["batch"], num_train_epochs=1,
            learning_rate=what["lr"], weight_decay=what["weight_decay"], max_grad_norm=what["clip_norm"],
            lr_scheduler_type="constant", save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
            use_cpu=True, remove_unused_columns=False, dataloader_pin_memory=False,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=client["rows"], data_collator=collator(client["pad"])).train()
        context.state["head"] = ArrayRecord(tensors(model, adapter=False))
        spent = {"load": loaded - begun, "train": time.perf_counter() - loaded}
        spent["processor"] = time.process_time() - used
        metrics = MetricRecord({"num-examples": len(client["rows"]), **spent})
        reply = RecordDict({"arrays": ArrayRecord(tensors(model, adapter=True)), "metrics": metrics})
        return Message(content=reply, reply_to=message)

    return app


def collator(pad: int) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]]:
    """Pads a batch to its longest row."""

    def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        padded = {
            name: torch.tensor(
                [[*row[name], *[pad * (name == "input_ids")] * (longest - len(row[name]))] for row in rows]
            )
            for name in rows[0].keys() - {"labels"}
        }
        lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
        mask = (torch.arange(longest) < lengths).long()
        return {**padded, "attention_mask": mask, "labels": torch.tensor([row["labels"] for row in rows])}

    return collate


def peer(folder: Path, smoke: bool) -> list[Seconds]:
    """Every round."""
    import ray
    from flwr.app import ArrayRecord, Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    what, cores = given(folder, smoke), use_all_cores()
    count, stamps, spent = len(what["lengths"]), list[float](), list[Seconds]()

    class Timed(FedAvg):
        def configure_train(self, *args: Any, **kwargs: Any) -> Any:
            stamps.append(time.perf_counter())
            return super().configure_train(*args, **kwargs)

        def aggregate_train(self, number: int, replies: Any) -> Any:
            replies = list(replies)
            if failed := [str(reply.error) for reply in replies if reply.has_error()]:
                raise RuntimeError(f"a client of the peer failed: {failed[0]}")
            metrics = [reply.content["metrics"] for reply in replies]
            names = ("load", "train", "processor")
            spent.append({name: sum(float(one[name]) for one in metrics) for name in names})
            return super().aggregate_train(number, replies)

    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = Timed(fraction_evaluate=0.0, min_train_nodes=count, min_available_nodes=count)
        first = ArrayRecord(tensors(wrapped(folder, what, 2), adapter=True))
        strategy.start(grid=grid, initial_arrays=first, num_rounds=ROUNDS)
        stamps.append(time.perf_counter())

    logging.getLogger("flwr").setLevel(logging.ERROR)
    resources: Any = {
        # A worker of Ray may die while it starts.
        "client_resources": {"num_cpus": cores, "num_gpus": 0, "max_restarts": 3, "max_task_retries": 3},
        "init_args": {"num_cpus": cores, "log_to_driver": False, "include_dashboard": False},
    }
    run_simulation(app, client_app(folder, cores), num_supernodes=count, backend_config=resources)
    ray.shutdown()
    rounds = [after - before for before, after in pairwise(stamps)]
    assert len(rounds) == len(spent) == ROUNDS
    return [{"round": s, **own, "other": s - own["load"] - own["train"]} for s, own in zip(rounds, spent, strict=True)]


def floor(folder: Path, dtype: str, smoke: bool) -> list[Seconds]:
    """The products of a round's tokens with the frozen weights, forward and backward, in batches of a step."""
    from transformers import AutoModel

    what = given(folder, smoke)
    use_all_cores()
    base = AutoModel.from_pretrained(folder / "base", dtype=getattr(torch, dtype))
    weights = [module.weight.detach() for module in base.modules() if isinstance(module, nn.Linear)]
    found = []
    for _ in range(2):
        begun, used = time.perf_counter(), time.process_time()
        for lengths in what["lengths"]:
            steps = -(-len(lengths) // what["batch"])
            inputs = {w.shape[1]: torch.ones(sum(lengths) // steps, w.shape[1], dtype=w.dtype) for w in weights}
            for _ in range(steps):
                for weight in weights:
                    torch.mm(torch.mm(inputs[weight.shape[1]], weight.T), weight)
        whole, own = time.perf_counter() - begun, time.process_time() - used
        found.append({"round": whole, **dict.fromkeys(PARTS, 0.0), "processor": own})
    return found


def child(way: str, smoke: bool) -> None:
    """One way in this process; its rounds as JSON."""
    from fedlease.reporting.quiet import quiet_libraries

    warnings.simplefilter("ignore")
    quiet_libraries()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        silent = dict.fromkeys(("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"), "0")
        os.environ.update(HF_HUB_OFFLINE="1", FLWR_DISABLE_UPDATE_CHECK="1", FLWR_HOME=str(folder / "flwr"), **silent)
        if way == PEER:
            rounds = peer(folder, smoke)
        elif way in OURS:
            rounds = ours(folder, way, smoke)
        else:
            rounds = floor(folder, way.rsplit(" ", 1)[1], smoke)
    print(json.dumps(rounds))


def measure(smoke: bool) -> Report:
    """All ways in turn, and the ratios of neighbours."""
    found: dict[str, list[Seconds]] = {way: [] for way in WAYS}
    for _ in range(1 if smoke else PASSES):
        for way in WAYS:
            words = [sys.executable, __file__, "--child", way, *["--smoke"] * smoke]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            rounds = json.loads(done.stdout.splitlines()[-1])[1:]
            found[way].append({part: median(each[part] for each in rounds) for part in TIMES})
    return report(found, smoke)


def report(found: Mapping[str, Sequence[Seconds]], smoke: bool) -> Report:
    """Table and targets of way -> its passes, each the medians of its rounds."""
    ratios = {way: [a["round"] / b["round"] for a, b in zip(found[PEER], found[way], strict=True)] for way in found}
    lines = []
    for way, passes in found.items():
        parts = [f"{median(each[part] for each in passes):.2f}" if way not in FLOORS else "" for part in PARTS]
        times, ratio = spread([each["round"] for each in passes]), spread(ratios[way])
        processor = spread([each["processor"] for each in passes])
        of_processor = spread([a["processor"] / b["processor"] for a, b in zip(found[PEER], passes, strict=True)])
        lines.append([way, times.text(2), *parts, ratio.text(1), processor.text(2), of_processor.text(1)])
    columns = ["way", "a round, s", "loading the base", "training", "other", "the peer's round / it"]
    columns += ["processor, s", "the peer's / it"]
    note = (
        f"Median (quartiles) of {len(found[PEER])} passes in turn, each the median of its rounds but the first. other: "
        "adapters in and out, messages, mean, checkpoint; the peer's messages pass Ray, ours a function call. Our "
        "scoring of the round before is left out. Ratios are of neighbours in one pass."
    )
    targets = [
        at_least(
            f"{way}: at least {least} times as fast as Flower's simulation with PEFT",
            [] if smoke else [spread(ratios[way]).median],
            least,
            digits=1,
        )
        for way, least in (("float32", 2), ("bfloat16", 3))
    ]
    return Report(
        "How long is a round beside the peers?", [Table("A round", columns, lines, [note])], targets, {"passes": found}
    )


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(sys.argv[sys.argv.index("--child") + 1], "--smoke" in sys.argv)
    else:
        entry("peers", measure)
