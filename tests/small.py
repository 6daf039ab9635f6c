"""Runs of the tiny random model on a planted federation, small enough for a second."""

import json
from pathlib import Path
from typing import Any

from fedlease.config.layers import parse_yaml
from fedlease.config.settings import Settings, resolve
from fedlease.storage.run_files import INDEX, as_json, sealed
from fedlease.use.run import RunResult, run

SMALL: dict[str, Any] = {
    "data.clients_per_task": 2,
    "data.train_rows": 12,
    "data.test_rows": 8,
    "data.max_tokens": 24,
    "warmup.epochs": 1,
    "rounds": 2,
    "threads": 1,
    "device": "cpu",
    "min_silhouette": -1,
}


def small_settings(**changes: Any) -> Settings:
    """The smoke preset, smaller; dots in keys are written as two underscores."""
    return resolve(preset="smoke", overrides={**SMALL, **{k.replace("__", "."): v for k, v in changes.items()}})


def small_run(out: Path, listeners: Any = (), **changes: Any) -> RunResult:
    """Runs it."""
    return run(small_settings(**changes), out=out, listeners=listeners)


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
