"""Runs of the tiny random model on a planted federation, small enough for a second."""

import json
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from fedlease.config.layers import parse_yaml
from fedlease.config.settings import Settings, resolve
from fedlease.core.codec import digest
from fedlease.methods.registry import known_methods
from fedlease.storage.run_files import INDEX, as_json, sealed
from fedlease.use.run import RunResult, resume, run

SMALL: dict[str, Any] = {
    "baselines": [],
    "data.clients_per_task": 1,
    "data.train_rows": 8,
    "data.test_rows": 8,
    "data.max_tokens": 24,
    "warmup.epochs": 1,
    "generation.max_new_tokens": 6,
    "rounds": 2,
    "threads": 1,
    "device": "cpu",
    "min_silhouette": -1,
}
"""Four clients with a task each, whose rows are one batch."""

EIGHT: dict[str, Any] = {"data.clients_per_task": 2, "data.train_rows": 12}
"""Two clients with each of the tasks, with two batches each, of which one is not full."""

WHOLE: dict[str, Any] = {**EIGHT, "baselines": ["fedit", "local"]}
"""What most tests of a finished run share."""

EVERY: dict[str, Any] = {
    "baselines": sorted({*known_methods()} - {"fedlease"}),
    "rounds": 1,
    "data.train_rows": 8,
    "data.test_rows": 4,
    "fedtreelora.tau": -1,
    "ifca.num_candidates": 2,
    # So few rows say nothing about who has one task.
    "fedlease_plus.grouping": "clients",
    # As the recorded runs are computed: the bits are compared.
    "base.skip_unread": False,
    "clients_per_step": 1,
}
"""Every method, each with several experts where it has any."""


def small_settings(**changes: Any) -> Settings:
    """The smoke preset, smaller; dots in keys are written as two underscores."""
    return resolve(preset="smoke", overrides={**SMALL, **{k.replace("__", "."): v for k, v in changes.items()}})


def small_run(out: Path, listeners: Any = (), **changes: Any) -> RunResult:
    """Runs it, in silence."""
    return run(small_settings(**changes), out=out, listeners=listeners, progress=False)


class FinishedRuns:
    """Finished runs by their settings, each trained once for all workers; their folders are for reading only."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._runs: dict[str, tuple[RunResult, dict[Path, tuple[int, int]]]] = {}

    def __call__(self, **changes: Any) -> RunResult:
        """The run that ``small_run`` gives."""
        key = digest(small_settings(**changes).model_dump_json().encode())
        if key not in self._runs:
            out = self._folder / key[:16]
            with FileLock(f"{out}.lock"):
                result = resume(out, progress=False) if (out / "report.html").is_file() else small_run(out, **changes)
            self._runs[key] = result, _files(out)
        result, files = self._runs[key]
        assert _files(result.out) == files, "a test has written into a run that others read: let it use a copy"
        return result

    def copy(self, to: Path, **changes: Any) -> Path:
        """A copy of the run's folder that may be written to."""
        return Path(shutil.copytree(self(**changes).out, to))


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def tensors_of(folder: Path) -> dict[str, Any]:
    """What a method's checkpoint holds, by content: hashes of the state and of every client's private tensors."""
    manifest = json.loads((folder / "state" / "manifest.json").read_text())
    return {"state": manifest["state"], "clients": manifest["clients"], "round": manifest["round"]}


def scores_of(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without what depends on the clock."""
    return {key: value for key, value in summary.items() if key != "seconds"}


def rounds_of(folder: Path) -> list[dict[str, Any]]:
    """``rounds.jsonl``, parsed."""
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def own_rows(folder: Path, clients: tuple[str, ...] = ("one", "two", "three", "four"), train: int = 8) -> Path:
    """Files of a federation in which every client has the labels no and yes."""
    for client in clients:
        (folder / client).mkdir(parents=True)
        for split, count in (("train", train), ("test", 4)):
            rows = [
                {"text": f"{client} says {'yes' if i % 2 else 'no'} {i}", "label": ["no", "yes"][i % 2]}
                for i in range(count)
            ]
            (folder / client / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def begun_with(out: Path, old: str, new: str) -> None:
    """Makes a run folder one that was begun with another setting; both are lines of ``config.yaml``."""
    path = out / "config.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    index = json.loads((out / INDEX).read_text())
    del index["sha256"]
    (out / INDEX).write_bytes(as_json(sealed({**index, "settings": parse_yaml(path.read_text())})))
