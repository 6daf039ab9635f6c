"""What a local step takes on an accelerator: clients in one step, one after another, by PEFT alone, and the floor.

    python benchmarks/accelerator_step.py FILE [--seconds 300] [--passes 3] [--bases NAME ...] [--dtypes NAME ...]

Clients make ten steps each, of 8 rows, on random bases of three shapes, in float32 and in bfloat16, r = 8 on query and
value projections: so nothing has to be downloaded. Compared, in turn:

    swapped     four clients, one after another on the one base, adapters swapped in and out
    stacked K   K clients in one step; four of them where K is less
    batches     the batches of sixteen in one step alone: padded, pinned and copied
    peft        four, one after another, by PEFT and the Trainer of transformers, as Flower's examples do it
    floor       the products with the frozen weights alone, forward and backward, of sixteen clients' rows at once

Every measurement is a line of FILE. A later call adds those that are missing, so an interrupted one is continued; the
tables are of all lines. Without an accelerator, and under --smoke, tiny bases show that it runs.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from output import Report, Table, at_least, at_most, machine, show
from torch import Tensor, nn

from fedlease.client.resident import ResidentModel
from fedlease.client.stacked_training import Job, StackedTrainer
from fedlease.client.training import Optimiser, Trainer
from fedlease.config.tables import task_facts
from fedlease.core.adapters import initial_adapter
from fedlease.core.types import ClientModel, ClientTask, Stage
from fedlease.models.base import BaseModel, initial_head
from fedlease.models.targets import target_shapes
from fedlease.tasks.base import Task
from fedlease.tasks.classification import Classification
from fedlease.tasks.encoded import Encoded, EncodedPrompts
from fedlease.tasks.generation import Generation

CLIENTS, FEW, STEPS, ROWS, ANSWER = 16, 4, 10, 8, 4
COUNTS = (16, 8, 4, 2, 1)
VARIANTS = ("swapped", *(f"stacked {count}" for count in COUNTS), "batches", "peft", "floor")
DTYPES = ("float32", "bfloat16")
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
BASES: dict[str, tuple[str, dict[str, int]]] = {
    "MiniLM-shaped, 23 M": ("Bert", {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}),
    "RoBERTa-large-shaped, 355 M": (
        "Roberta",
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "vocab_size": 50265,
            "max_position_embeddings": 514,
        },
    ),
    "LLaMA-shaped, 1.0 B": (
        "Llama",
        {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_hidden_layers": 16,
            "vocab_size": 32000,
        },
    ),
}
SMALL = {"tiny encoder": ("Bert", TINY), "tiny decoder": ("Llama", {**TINY, "vocab_size": 300})}


def model_of(family: str, sizes: Mapping[str, int], dtype: str, device: torch.device) -> Any:
    """A random base that has no dropout, frozen."""
    import transformers

    writes = family == "Llama"
    silent = {} if writes else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = getattr(transformers, f"{family}Config")(**sizes, **silent, tie_word_embeddings=True)
    config.pad_token_id = 0 if writes else config.pad_token_id
    kind = getattr(transformers, f"{family}For{'CausalLM' if writes else 'SequenceClassification'}")
    torch.manual_seed(0)
    with device:
        model = kind(config)
    return model.to(getattr(torch, dtype)).requires_grad_(False).eval()


class Work:
    """Clients on one base, ready to be trained in every way.

    Args:
        family: of the architecture.
        sizes: its configuration.
        dtype: of the base.
        tokens: per row.
    """

    def __init__(self, family: str, sizes: Mapping[str, int], dtype: str, tokens: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokens, self.writes, self.bf16 = tokens, family == "Llama", dtype == "bfloat16"
        self.base_bytes = -allocated()
        model = model_of(family, sizes, dtype, self.device)
        self.base_bytes += allocated()
        task: Task = Generation(tokens, max_new_tokens=1) if self.writes else Classification(tokens)
        heads = () if self.writes else ("classifier",)
        base = BaseModel(model, heads, None, kind=task_facts("generation" if self.writes else "classification").model)
        autocast = torch.bfloat16 if self.bf16 else None
        self.resident = ResidentModel(base, self.device, autocast, task, deterministic=False)
        adapter = initial_adapter(target_shapes(base, None, 8), r=8, alpha=16.0, dropout=0.0, seed=0)
        tensors = {**adapter.tensors, **initial_head(self.resident.head_modules(2), 0)}
        names = frozenset(tensors)
        self.task = ClientTask("train", 1, ClientModel(adapter.spec, tensors), (Stage(names, 1),), names)
        optimiser = Optimiser(2e-3, 0.01, ROWS, 1.0, 1, 0)
        self.trainer, self.stack = Trainer(self.resident, optimiser), StackedTrainer(self.resident, optimiser)
        body = [m for n, m in model.named_modules() if isinstance(m, nn.Linear) and not n.startswith(("lm_", "class"))]
        x = {m.in_features: torch.randn(CLIENTS * ROWS * tokens, m.in_features).to(m.weight) for m in body}
        self.products = [(x[module.in_features], module.weight) for module in body]
        self.peft_model, self.start = self._wrapped()
        self.use(1)

    def use(self, steps: int) -> None:
        """Gives every client rows for so many steps."""
        draw = torch.Generator().manual_seed(0)
        ids = [torch.randint(5, 250, (ROWS * steps, self.tokens), generator=draw).tolist() for _ in range(CLIENTS)]
        self.steps, tensors = steps, self.task.model.tensors
        self.jobs = [Job(f"c{i:02}", self.task, tensors, self._rows(own), 2) for i, own in enumerate(ids)]
        self.examples = [self._examples(own) for own in ids]

    def swapped(self) -> None:
        """One client after another on the one base."""
        for job in self.jobs[:FEW]:
            self.resident.load(job.task.model, job.num_labels, job.tensors)
            self.trainer.train(job.client, job.task, job.rows)

    def stacked(self, clients: int) -> None:
        """So many clients in one step."""
        for begin in range(0, self.clients_of(f"stacked {clients}"), clients):
            found = self.stack.train(self.jobs[begin : begin + clients])
            assert all(not isinstance(result, Exception) for result in found.values())

    def batches(self) -> None:
        """The batches of all clients in one step, of which the next could be made while a step is computed."""
        rows = self.jobs[0].rows.followed_by([job.rows for job in self.jobs[1:]])
        each = list(range(0, len(rows), len(rows) // CLIENTS))
        for step in range(self.steps):
            rows.pad([begin + step * ROWS + row for begin in each for row in range(ROWS)], self.device)

    def floor(self) -> None:
        """The products with the frozen weights: x W^T of the forward pass, and g W of the backward pass."""
        for x, weight in self.products * self.steps:
            torch.mm(torch.mm(x, weight.T), weight)

    def peft(self) -> None:
        """One client after another by PEFT and the Trainer: its adapter in, an epoch, its adapter out."""
        import peft
        from transformers import Trainer as HuggingFaceTrainer
        from transformers import TrainingArguments

        with tempfile.TemporaryDirectory() as folder:
            for own in self.examples[:FEW]:
                peft.set_peft_model_state_dict(self.peft_model, self.start)
                arguments = TrainingArguments(
                    folder,
                    per_device_train_batch_size=ROWS,
                    num_train_epochs=1,
                    learning_rate=2e-3,
                    lr_scheduler_type="constant",
                    save_strategy="no",
                    logging_strategy="no",
                    report_to=[],
                    disable_tqdm=True,
                    bf16=self.bf16,
                    use_cpu=self.device.type == "cpu",
                )
                HuggingFaceTrainer(self.peft_model, arguments, train_dataset=own).train()
                _on_cpu(peft.get_peft_model_state_dict(self.peft_model, save_embedding_layers=False))

    def _wrapped(self) -> tuple[Any, dict[str, Tensor]]:
        """The same weights in a second tree of modules that PEFT has wrapped, and the adapter it begins with."""
        import peft

        kind, targets = "CAUSAL_LM" if self.writes else "SEQ_CLS", list(self.task.model.spec.target_modules)
        config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type=kind)
        model: Any = peft.get_peft_model(self.resident.twin(), config)  # type: ignore[arg-type]
        return model, _on_cpu(peft.get_peft_model_state_dict(model, save_embedding_layers=False))

    def _rows(self, ids: Sequence[Sequence[int]]) -> Encoded:
        if self.writes:
            return EncodedPrompts.of({"input_ids": ids}, [ANSWER] * len(ids), 0, left=True, references=("",) * len(ids))
        return Encoded.of({"input_ids": ids}, [i % 2 for i in range(len(ids))], 1, left=False)

    def _examples(self, ids: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        mask, unasked = [1] * self.tokens, [-100] * (self.tokens - ANSWER)
        labels = [[*unasked, *row[-ANSWER:]] if self.writes else i % 2 for i, row in enumerate(ids)]
        return [
            {"input_ids": row, "attention_mask": mask, "labels": label} for row, label in zip(ids, labels, strict=True)
        ]

    @staticmethod
    def clients_of(way: str) -> int:
        """How many clients a way of :attr:`ways` trains."""
        return (
            CLIENTS
            if way in ("batches", "floor")
            else max(FEW, *(int(word) for word in way.split() if word.isdecimal()), 0)
        )

    @property
    def ways(self) -> dict[str, Callable[[], None]]:
        """Variant -> what does its work once."""
        stacked = {f"stacked {count}": partial(self.stacked, count) for count in COUNTS}
        return {"swapped": self.swapped, **stacked, "batches": self.batches, "peft": self.peft, "floor": self.floor}


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def allocated() -> int:
    """Bytes of tensors on the accelerator."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def timed(way: Callable[[], None]) -> tuple[float, int]:
    """Seconds, and MB of the accelerator's memory beyond what was held before."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before, started = allocated(), time.perf_counter()
    way()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return seconds, (torch.cuda.max_memory_allocated() - before) >> 20 if cuda else 0


def read(file: Path) -> list[dict[str, Any]]:
    """The lines of a file, which need not exist; one that was cut off at its end counts as not written."""
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    file.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def measure(
    file: Path, cells: Sequence[tuple[str, str]], tokens: int, passes: int, ends: float, *, smoke: bool
) -> None:
    """Adds what is missing in the file, of bases in a dtype, until the time is over."""
    device, done = torch.cuda.get_device_name() if torch.cuda.is_available() else "processor", read(file)
    for base, dtype in cells:
        cell = {"device": device, "base": base, "dtype": dtype, "tokens": tokens, "smoke": smoke}
        found = [line["variant"] for line in done if cell.items() <= line.items()]
        names = {name: passes - found.count(name) for name in VARIANTS if found.count(name) < passes}
        if not names or time.perf_counter() > ends:
            continue
        work = Work(*{**BASES, **SMALL}[base], dtype, tokens)
        for name in names:
            work.ways[name]()  # compiles kernels, loads modules, finds memory
        work.use(1 if smoke else STEPS)
        for number, name in product(range(passes), names):
            if number >= names[name]:
                continue
            if time.perf_counter() > ends:
                return
            seconds, extra = timed(work.ways[name])
            ms = round(seconds * 1000 / work.clients_of(name) / work.steps, 4)
            line = {**cell, "variant": name, "ms": ms, "extra_mb": extra}
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps({**line, "base_mb": work.base_bytes >> 20}) + "\n")
        del work
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def report(lines: Sequence[dict[str, Any]]) -> Report:
    """The medians of all lines, ratios of medians, and the targets where an accelerator was measured."""
    cells: dict[tuple[Any, ...], dict[str, list[dict[str, Any]]]] = {}
    for line in lines:
        cell = cells.setdefault(tuple(line[key] for key in ("device", "base", "dtype", "tokens")), {})
        cell.setdefault(line["variant"], []).append(line)
    rows, faster, peft, memory = list[list[str]](), list[float](), list[float](), list[float]()
    for cell, found in cells.items():
        ms = {name: statistics.median(line["ms"] for line in own) for name, own in found.items()}
        extra = {name: max(line["extra_mb"] for line in own) for name, own in found.items()}
        for name in (name for name in VARIANTS if name in ms):
            ratios = [f"{ms[other] / ms[name]:.1f}" if other in ms else "-" for other in ("swapped", "peft", "floor")]
            spread = [line["ms"] for line in found[name]]
            time_ = f"{ms[name]:.2f} ({min(spread):.2f}-{max(spread):.2f})"
            held = ["-", "-"] if name == "floor" else [str(found[name][0]["base_mb"]), str(extra[name])]
            rows.append([*map(str, cell[1:]), name, str(len(spread)), time_, *ratios, *held])
        stacked = f"stacked {CLIENTS}"
        if cell[0] != "processor" and {"swapped", "peft", "stacked 1", stacked} <= ms.keys():
            faster.append(ms["swapped"] / ms[stacked])
            peft.append(ms["peft"] / ms[stacked])
            base = found["stacked 1"][0]["base_mb"]
            memory.append((base + extra[stacked]) / (base + CLIENTS * max(1, extra["stacked 1"])))
    columns = ["base", "dtype", "tokens", "way", "runs", "ms per client's step", "swapped / it", "peft / it"]
    columns += ["floor / it", "base, MB", "beside it, MB"]
    title = ", ".join(sorted({cell[0] for cell in cells})) or "nothing measured"
    note = "Median (least-largest). floor: products with the weights of the body, of all sixteen clients' rows at once."
    targets = [
        at_least(f"{CLIENTS} stacked are at least 3 times as fast as one after another", faster, 3, digits=1),
        at_least(f"{CLIENTS} stacked are at least 5 times as fast as PEFT with the Trainer", peft, 5, digits=1),
        at_most(f"memory of {CLIENTS} stacked: at most 1.3 of the base and {CLIENTS} clients' own", memory, 1.3),
    ]
    return Report("What does a client's local step take?", [Table(title, columns, rows, [note])], targets)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/accelerator_step.py")
    parser.add_argument("file", type=Path, help="JSON lines, one per measurement; is added to")
    parser.add_argument("--seconds", type=float, default=300, help="nothing begins after so long")
    parser.add_argument("--passes", type=int, default=3, help="over all ways of a base")
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--tokens", type=int, default=32, help="per row")
    parser.add_argument("--smoke", action="store_true", help="tiny bases and one pass: does it run")
    given = parser.parse_args(argv)
    smoke = given.smoke or not torch.cuda.is_available()
    cells = list(zip(SMALL, DTYPES, strict=True) if smoke else product(given.bases, given.dtypes))
    ends = time.perf_counter() + given.seconds
    print(json.dumps(machine()), flush=True)
    measure(given.file, cells, given.tokens, 1 if smoke else given.passes, ends, smoke=smoke)
    show(report([line for line in read(given.file) if line["smoke"] is smoke]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
