"""Cost of routed experts in a language model's step, share of padding, and memory as the number of clients grows.

    python benchmarks/generation.py [--data DIR] [--smoke]

``DIR`` holds FLAN rows as the preset flan-small takes them, whose settings are used; without it, rows are generated.
The model is SmolLM2-135M. Each batch is trained plain and routed in turn, with the loss that clients train with. Memory
is measured in separate processes that make whole runs: with one client, and with eight that have the same rows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from measure import Times, interleave, peak_tensor_bytes, spread, use_all_cores
from memory import memory_of_process
from output import Report, Table, at_least, at_most, machine, show
from torch import Tensor

from fedlease.client.resident import ResidentModel
from fedlease.config.settings import Settings, resolve
from fedlease.core.adapters import initial_adapter, initial_router, renumber
from fedlease.core.types import AdapterSpec, ClientModel
from fedlease.data.federation import Federation
from fedlease.data.load import load_federation
from fedlease.models.base import load_base, load_tokenizer
from fedlease.models.sources import locate
from fedlease.models.targets import target_shapes
from fedlease.runs.runner import run_settings
from fedlease.tasks.base import Task
from fedlease.tasks.encoded import Encoded, EncodedPrompts, evaluation_batches, training_batches
from fedlease.tasks.registry import make_task

EXPERTS, RANK = 4, 8
MANY = 8


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Share of padding among the tokens of all batches, in [0, 1)."""
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    return 1 - sum(lengths[i] for batch in batches for i in batch) / padded if padded else 0.0


def settings_of(data: Path | None, smoke: bool) -> Settings:
    changes: dict[str, object] = {"lora.r": RANK}
    changes |= {"data.path": str(data)} if data else {"data.source": "synthetic"}
    return resolve(preset="flan-small", overrides={**changes, **({"model": "tiny-random"} if smoke else {})})


class Steps:
    """Training steps on one resident model with experts and a router, over a list of batches."""

    def __init__(self, settings: Settings, folder: Path, num_experts: int, *, checkpointing: bool = False) -> None:
        source = locate(settings.model, None, folder, 0, "generation")
        self.tokenizer = load_tokenizer(source)
        base = load_base(source, dtype="float32", dropout=False, task="generation", checkpointing=checkpointing)
        self.task: Task = make_task(settings)
        self.resident = ResidentModel(base, torch.device("cpu"), None, self.task)
        adapter = initial_adapter(target_shapes(base, None, RANK), r=RANK, alpha=16.0, dropout=0.0, seed=0)
        self.resident.load(mixture(adapter, num_experts), 0)
        trained = [name for name in self.resident.parameters if name.endswith(("/A/0", "/B/0", "/G"))]
        self.parameters = self.resident.train_only(trained)
        self.resident.model.train()
        self.adamw = torch.optim.AdamW(self.parameters, lr=1e-6, fused=True)

    def over(self, rows: Encoded, batches: Sequence[Sequence[int]]) -> Callable[[], None]:
        """Makes a step on every batch: forward, backward, clipping and AdamW."""

        def run() -> None:
            for batch in batches:
                self.task.batch_loss(self.resident, rows, batch).backward()
                torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
                self.adamw.step()
                self.adamw.zero_grad(set_to_none=True)

        return run


def mixture(adapter: ClientModel, num_experts: int) -> ClientModel:
    """Different experts and a router; a single expert is plain LoRA from PEFT."""
    draw = torch.Generator().manual_seed(0)

    def drawn(tensor: Tensor) -> Tensor:
        return tensor + 0.02 * torch.randn(tensor.shape, generator=draw)

    tensors: dict[str, Tensor] = {}
    for expert in range(num_experts):
        tensors |= renumber({name: drawn(tensor) for name, tensor in adapter.tensors.items()}, expert)
    if num_experts == 1:
        return ClientModel(adapter.spec, tensors)
    spec = AdapterSpec(**{**vars(adapter.spec), "num_experts": num_experts, "own": 0, "mixer": "top_m"})
    return ClientModel(spec, tensors | initial_router(adapter, num_experts, 0))


def step_table(settings: Settings, federation: Federation, smoke: bool, folder: Path) -> tuple[Table, Times]:
    variants = {
        "plain": Steps(settings, folder / "0", 1),
        "routed": Steps(settings, folder / "1", EXPERTS),
        "routed, checkpointing": Steps(settings, folder / "2", EXPERTS, checkpointing=True),
    }
    first = next(iter(variants.values()))
    rows = first.task.encode([row for client in list(federation)[:MANY] for row in client.train], first.tokenizer)
    size = settings.train.batch_size
    batches = training_batches(rows.lengths, size, torch.Generator().manual_seed(0))[: 2 if smoke else 6]
    steps = {name: made.over(rows, batches) for name, made in variants.items()}
    times = interleave(steps, 2 if smoke else 9, warmup=1)
    tokens = sum(rows.lengths[i] for batch in batches for i in batch)
    widest = max(batches, key=lambda batch: max(rows.lengths[i] for i in batch))
    peaks = {name: peak_tensor_bytes(made.over(rows, [widest])) for name, made in variants.items()}
    lines = [
        [
            name,
            times.of(name).text(0, 1e3 / len(batches)),
            spread([tokens / seconds for seconds in times.seconds[name]]).text(0),
            times.ratio("plain", name).text(),
            f"{peaks[name] / 2**20:.0f}",
        ]
        for name in variants
    ]
    table = Table(
        f"One training step of {settings.model}: {size} rows, {tokens / len(batches):.0f} tokens on average, "
        f"M = {EXPERTS}, r = {RANK}, float32, {torch.get_num_threads()} threads",
        ["variant", "ms", "tokens/s", "throughput / plain", "peak MiB"],
        lines,
        [
            f"The same {len(batches)} batches for each, in turn; median (quartiles). Peak: tensor memory alive at once "
            f"beyond weights and optimiser state, in the batch with the longest row "
            f"({max(rows.lengths[i] for i in widest)} tokens)."
        ],
    )
    return table, times


def padding(settings: Settings, federation: Federation, folder: Path) -> tuple[Table, float]:
    """Table of the share of padding in every client's batches, in training and in scoring."""
    task, tokenizer = make_task(settings), load_tokenizer(locate(settings.model, None, folder, 0, "generation"))
    size, lines, worst = settings.train.batch_size, [], []
    trained: list[tuple[int, int]] = []
    for client in federation:
        lengths = task.encode(client.train, tokenizer).lengths
        asked = task.encode(client.test, tokenizer)
        assert isinstance(asked, EncodedPrompts)
        questions = asked.prompt_lengths()
        batches = training_batches(lengths, size, torch.Generator().manual_seed(0))
        share = padding_share(lengths, batches)
        plain = padding_share(lengths, [range(len(lengths))[i : i + size] for i in range(0, len(lengths), size)])
        scored = padding_share(questions, evaluation_batches(questions, settings.generation.batch_size))
        used = sum(lengths)
        trained.append((used, round(used / (1 - share))))
        worst.append(share)
        lines.append(
            [
                client.id,
                str(len(lengths)),
                f"{used / len(lengths):.0f}",
                *(f"{100 * s:.1f} %" for s in (share, plain, scored)),
            ]
        )
    overall = 1 - sum(used for used, _ in trained) / sum(padded for _, padded in trained)
    lines.append(["all", "", "", f"{100 * overall:.1f} %", "", ""])
    columns = ["client", "train rows", "tokens per row", "training", "in row order", "scoring"]
    return Table(f"Padding among the tokens of batches of {size}", columns, lines), overall


def memory_child(folder: Path, out: Path, model: str) -> None:
    """Runs a federation and prints the peak memory of this process."""
    settings = resolve(
        preset="flan-small",
        overrides={
            "model": model, "data.source": "folder", "data.path": str(folder), "baselines": [], "rounds": 1,
            "warmup.epochs": 1, "lora.r": RANK, "generation.max_new_tokens": 8, "min_silhouette": -1,
        },
    )  # fmt: skip
    run_settings(settings, out)
    print(json.dumps(memory_of_process()[1]))


def memory_table(settings: Settings, federation: Federation, scratch: Path) -> tuple[Table, float]:
    """Table of the peak memory of a process with one client, and with eight that have the same rows."""
    client = max(federation, key=lambda data: sum(len(row.text) for row in data.train))
    peaks = {}
    for count in (1, MANY):
        folder = scratch / f"of-{count}"
        for number in range(count):
            own = folder / f"client-{number}"
            own.mkdir(parents=True)
            for part, rows in (("train", client.train[:24]), ("test", client.test[:4])):
                texts = [json.dumps({"prompt": row.text, "response": row.response}) for row in rows]
                (own / f"{part}.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
        words = [sys.executable, __file__, "--child", str(folder), str(scratch / f"run-{count}"), settings.model]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        peaks[count] = json.loads(done.stdout.splitlines()[-1])
    ratio = peaks[MANY] / peaks[1]
    lines = [[str(count), f"{peak / 1e9:.3f}", f"{peak / peaks[1]:.3f}"] for count, peak in peaks.items()]
    title = f"Peak memory of a whole run, {settings.model}, 24 rows a client"
    return Table(title, ["clients", "GB", "/ one client"], lines), ratio


def measure(data: Path | None, smoke: bool) -> Report:
    """All three tables."""
    use_all_cores()
    settings = settings_of(data, smoke)
    federation = load_federation(settings.data, 0, "generation")
    with tempfile.TemporaryDirectory() as folder:
        steps, times = step_table(settings, federation, smoke, Path(folder))
        padded, share = padding(settings, federation, Path(folder) / "3")
        memory, ratio = memory_table(settings, federation, Path(folder))
    routed = [] if smoke else [times.ratio("plain", "routed").median]
    targets = [
        at_least(f"step of SmolLM2 with M = {EXPERTS}: at least 0.85 of plain LoRA's throughput", routed, 0.85),
        at_most("padding: at most 15 % of the tokens trained on", [100 * share] if data else [], 15, " %", 1),
        at_most("memory of eight clients: at most 1.10 x that of one", [] if smoke else [ratio], 1.1),
    ]
    return Report("What does generation cost?", [steps, padded, memory], targets)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/generation.py")
    parser.add_argument("--data", type=Path, help="folder of FLAN rows")
    parser.add_argument("--smoke", action="store_true", help="a tiny model: does it run; figures mean nothing")
    parser.add_argument("--child", nargs=3, metavar=("DATA", "OUT", "MODEL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        memory_child(Path(arguments.child[0]), Path(arguments.child[1]), arguments.child[2])
        return
    show(measure(arguments.data, arguments.smoke))
    print(json.dumps(machine()))


if __name__ == "__main__":
    main()
