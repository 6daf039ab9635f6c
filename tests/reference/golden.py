"""Digests of small runs of every variant, recorded once: a change that is meant to change no result changes none.

    python tests/reference/golden.py check [NAME ...]     all seeds of these variants, or of all: about six minutes
    python tests/reference/golden.py record [NAME ...]    after a change that is meant to change results

Runs go through the public front alone. Bits depend on the version of torch and on the processor, which the file names.
"""

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

import fedlease
from fedlease.methods.registry import known_methods

FILE = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)

SMALL: dict[str, Any] = {
    "preset": "smoke",
    "baselines": [],
    "data.clients_per_task": 2,
    "data.train_rows": 12,
    "data.test_rows": 8,
    "data.max_tokens": 24,
    "warmup.epochs": 1,
    "rounds": 2,
    "threads": 1,
    "device": "cpu",
    "min_silhouette": -1,
    # What is left out, and who is computed together, alters rounding and depends on model and machine.
    "base.skip_unread": False,
    "clients_per_step": 1,
}
CLIENTS = [f"planted-{task}-{i}" for task in range(4) for i in range(2)]
# Tasks 0 to 2 have two labels and task 3 has three, so that only these may share a head.
ONE_LABEL_LIST = {"fedlease.grouping": "given", "fedlease.assignment": {c: int("-3-" in c) for c in CLIENTS}}
GIVEN = {"fedlease.grouping": "given", "fedlease.assignment": dict(zip(CLIENTS, (0, 0, 1, 1, 2, 0, 1, 2), strict=True))}

# With a plug-in's, where one is installed.
EVERY = {
    "baselines": sorted({*known_methods()} - {"fedlease"}),
    "data.clients_per_task": 1,
    "data.train_rows": 8,
    "data.test_rows": 4,
    "rounds": 1,
    "fedtreelora.tau": -1,
    "ifca.num_candidates": 2,
    "fedlease_plus.grouping": "clients",
    "generation.max_new_tokens": 6,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "all-methods": {
        "baselines": [
            "fedit",
            "local",
            "ffa-lora",
            "fedsa-lora",
            "ifca",
            "fedalt",
            "feddpa",
            "fedtreelora",
            "centralised",
        ]
    },
    "every-method": EVERY,
    "head-shared": {"head": "shared", **ONE_LABEL_LIST},
    "head-frozen": {"head": "frozen", "baselines": ["fedit", "ifca", "feddpa", "centralised"]},
    "clients": {"fedlease.grouping": "clients"},
    "random": {"fedlease.grouping": "random", "fedlease.num_experts": 3},
    "given": GIVEN,
    "m2": {"fedlease.num_experts": 2},
    "m1": {"fedlease.num_experts": 1},
    "signal-a": {"fedlease.signal": "A"},
    "signal-ba": {"fedlease.signal": "BA"},
    "spectral": {"fedlease.clustering": "spectral"},
    "start-client": {"fedlease.expert_start": "client"},
    "own": {"fedlease.routing": "own"},
    "top1": {"fedlease.top_k": 1},
    "raw": {"fedlease.renormalise": False},
    "router-client": {"fedlease.router": "client"},
    "router-own": {"fedlease.router_start": "own"},
    "product": {"fedlease.average": "product"},
    "reallocate": {"fedlease.reallocate": 1, "rounds": 3},
    "start-client-router-client": {"fedlease.expert_start": "client", "fedlease.router": "client"},
    "uniform": {"weights": "uniform", "baselines": ["fedit", "fedalt", "fedtreelora"]},
    "complete": {"linkage": "complete"},
    "single": {"linkage": "single"},
    "plus": {"method": "fedlease-plus", "data.train_rows": 20, "rounds": 4},
    "guard": {"min_silhouette": 0.05},
    "sampled": {
        "clients_per_round": 3,
        "rounds": 3,
        "baselines": ["fedit", "ifca", "fedalt", "feddpa", "fedtreelora", "fedsa-lora"],
    },
    "sampled-shared": {"clients_per_round": 3, "rounds": 3, "head": "shared", **ONE_LABEL_LIST},
    "dropout": {"lora.dropout": 0.1, "baselines": ["fedit", "feddpa", "centralised"]},
    "bf16": {"dtype": "bfloat16"},
    "two-epochs": {"train.local_epochs": 2, "warmup.epochs": 3, "baselines": ["fedit", "feddpa"]},
    "ifca-clients": {"method": "ifca", "ifca.candidate_start": "clients", "ifca.num_candidates": 3},
    "tree-cos": {"method": "fedtreelora", "fedtreelora.distance": "cosine", "fedtreelora.outside": False},
    "feddpa": {"method": "feddpa", "feddpa.blend": 0.8, "feddpa.num_anchors": 3},
    "gen": {"task": "generation", "baselines": ["fedit", "local", "feddpa"], "generation.max_new_tokens": 4},
    "gen-loss": {"task": "generation", "generation.score_rounds": False, "generation.max_new_tokens": 4},
    "valid": {"data.valid_fraction": 0.25, "data.score_rows": "valid"},
    "checkpointing": {"train.gradient_checkpointing": True, "train.base_dropout": True},
    "noclip": {"train.clip_norm": None},
}


def environment() -> dict[str, str]:
    """What bits depend on beside the code."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    vendor = next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "processor": f"{platform.machine()} {vendor} {capability}".replace("  ", " ")}


def run_variant(name: str, seed: int) -> dict[str, dict[str, Any]]:
    """Method -> its mean score, and a digest of scores, allocation, losses, bytes and every client's model."""
    changes = {**SMALL, **VARIANTS[name], "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        # To load every client's model of every method would take longer than to train them.
        loaded = 1 if name == "every-method" else len(CLIENTS)
        return results_of(fedlease.run(changes, out=Path(folder) / "run"), loaded)


def results_of(result: Any, loaded: int) -> dict[str, dict[str, Any]]:
    """Method -> what is recorded of it; of so many clients the models are compared, too."""
    return {
        method: {"mean": summary["mean"], "digest": _digest(_content(result, method, summary, loaded))}
        for method, summary in result.summaries.items()
    }


def _content(result: Any, method: str, summary: Mapping[str, Any], loaded: int) -> dict[str, Any]:
    folder = result.out / "baselines" / method
    folder = folder if folder.is_dir() else result.out
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return {
        "mean": summary["mean"],
        "per_client": _digest(summary["per_client"]),
        "M": summary["num_experts"],
        "assignment": summary["assignment"],
        "silhouettes": _digest(summary["silhouettes"]),
        "bytes": [summary["bytes_up"], summary["bytes_down"]],
        "losses": _digest([_losses(record) for record in rounds]),
        "rounds": [len(rounds)],
        "models": _models(result, method, sorted(summary["per_client"])[:loaded]),
    }


def _losses(record: Mapping[str, Any]) -> dict[str, list[Any]]:
    clients = sorted(record["clients"].items())
    return {client: [values.get(key) for key in ("loss", "score", "choice")] for client, values in clients}


def _models(result: Any, method: str, clients: Iterable[str]) -> str:
    """SHA-256 of the adapters and heads of every client's model, as it is loaded from the run folder."""
    found = hashlib.sha256()
    for client in clients:
        for name, tensor in sorted(result.load(client, method=method).state_dict().items()):
            if any(part in name for part in ("lora_", "classifier", "score", "pooler")):
                found.update(name.encode())
                found.update(tensor.detach().float().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def recorded() -> dict[str, Any]:
    """The file: ``environment``, and ``runs`` by variant and seed."""
    content: dict[str, Any] = json.loads(FILE.read_text())
    return content


def main(mode: str = "", *names: str) -> int:
    """Runs the variants; prints every difference and gives their number, 0 where they are recorded.

    Raises:
        SystemExit: no such mode or variant.
    """
    unknown = [name for name in names if name not in VARIANTS]
    if mode not in ("check", "record") or unknown:
        raise SystemExit(f"golden.py: {f'no variant {unknown[0]!r}' if unknown else f'no mode {mode!r}'}\n{__doc__}")
    torch.set_num_threads(1)
    known = recorded() if FILE.exists() else {"runs": {}}
    if mode == "check" and known["environment"] != environment():
        print(f"recorded with {known['environment']}, this is {environment()}: differences may be the machine's")
    differences = 0
    for name in names or VARIANTS:
        for seed in SEEDS:
            key, found = f"{name}/{seed}", run_variant(name, seed)
            before = known["runs"].get(key, {})
            for method in sorted(found.keys() | before.keys()):
                if found.get(method) != before.get(method):
                    differences += 1
                    print(f"{key} {method}: {before.get(method)} became {found.get(method)}")
            known["runs"][key] = found
    if mode == "record":
        FILE.write_text(json.dumps({"environment": environment(), "runs": known["runs"]}, indent=1) + "\n")
    print(f"{differences} differences")
    return 0 if mode == "record" else differences


if __name__ == "__main__":
    sys.exit(min(1, main(*sys.argv[1:])))
