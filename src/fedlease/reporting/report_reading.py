"""A run folder, finished or not -> the values that a report is drawn from."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlease.config import Settings
from fedlease.core.types import Budget
from fedlease.errors import RunFolderError
from fedlease.reporting.means import averaged
from fedlease.reporting.report_data import ClientRows, Grouping, MethodRun, Newcomer, Point, RunData, Step
from fedlease.reporting.report_samples import read_samples
from fedlease.reporting.run_folder import method_folder, read_clients, read_json, read_settings

__all__ = ["read_run"]


def read_run(out: Path) -> RunData:
    """Reads a run folder, also one of a run that is still going or was interrupted.

    Args:
        out: the run folder.

    Raises:
        RunFolderError: not a run folder, damaged, or of another version.
    """
    settings = read_settings(out)
    clients = {
        client: ClientRows(client, str(row["task"]), len(row["labels"]), int(row["train_rows"]), int(row["test_rows"]))
        for client, row in sorted(read_clients(out).items())
    }
    methods, missing = [], []
    for name in (settings.method, *settings.baselines):
        method = _read_method(method_folder(out, settings, name), name, settings)
        if name != settings.method and not method.steps and method.summary is None:
            missing.append(name)
        else:
            methods.append(method)
    return RunData(
        name=out.resolve().name,
        settings=settings,
        environment=read_json(out / "environment.json"),
        clients=clients,
        methods=tuple(methods),
        missing=tuple(missing),
        grouping=_read_grouping(out / "allocation.json"),
        newcomers=_read_newcomers(out),
        samples=read_samples({m.name: method_folder(out, settings, m.name) for m in methods}, clients),
    )


def _read_method(folder: Path, name: str, settings: Settings) -> MethodRun:
    steps = _read_steps(folder / "rounds.jsonl")
    path = folder / "summary.json"
    summary = read_json(path) if path.is_file() else None
    return MethodRun(name, steps, summary, _points(steps, summary, settings))


def _read_steps(path: Path) -> tuple[Step, ...]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    steps = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            steps.append(_step(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                break  # no newline yet: a run that is going on is writing this line now
            raise RunFolderError(f"{path}, line {number} is damaged: {type(error).__name__} {error}") from error
    return tuple(steps)


def _step(record: Mapping[str, Any]) -> Step:
    rows: Mapping[str, Mapping[str, Any]] = record.get("clients", {})
    counts = ("bytes_up", "bytes_down", "head_bytes_up", "head_bytes_down")
    return Step(
        number=int(record["step"]),
        phase=str(record["phase"]),
        round=int(record["round"]),
        scores={client: float(row["score"]) for client, row in rows.items() if row.get("score") is not None},
        refused={client: str(reason) for client, reason in record.get("refused", {}).items()},
        bytes={key: int(record.get(key, 0)) for key in counts},
        seconds={phase: float(value) for phase, value in record.get("seconds", {}).items()},
        failed="clients" not in record,
    )


def _points(steps: Sequence[Step], summary: Mapping[str, Any] | None, settings: Settings) -> tuple[Point, ...]:
    """A score belongs to the passes that came before it: a step scores the model that it receives."""
    warmed_up = any(step.round == 0 for step in steps)
    budget = Budget(settings.warmup.epochs, settings.rounds, settings.train.local_epochs)
    merged: dict[int, dict[str, float]] = {}
    for step in steps:
        if warmed_up:
            passes = budget.warmup_epochs + (step.round - 1) * budget.local_epochs if step.round else 0
        else:
            passes = budget.passes_before(step.round)
        merged.setdefault(passes, {}).update(step.scores)  # warm-up waves share the same passes
    if summary is not None:
        merged[int(summary["passes"])] = {client: float(score) for client, score in averaged(summary).items()}
    return tuple(Point(passes, scores) for passes, scores in sorted(merged.items()) if scores)


def _read_grouping(path: Path) -> Grouping | None:
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        return Grouping(
            clients=tuple(content["clients"]),
            num_experts=int(content["num_experts"]),
            assignment={client: int(expert) for client, expert in content["assignment"].items()},
            silhouettes={int(k): float(s) for k, s in sorted(content["silhouettes"].items(), key=lambda i: int(i[0]))},
            distances=tuple(tuple(float(value) for value in row) for row in content["distances"]),
            warnings=tuple(content.get("warnings", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(f"{path} is damaged: {type(error).__name__} {error}") from error


def _read_newcomers(out: Path) -> tuple[Newcomer, ...]:
    found = []
    for path in sorted((out / "onboarded").glob("[!.]*/onboarding.json")):
        content = read_json(path)
        margin = content.get("margin")
        try:
            found.append(
                Newcomer(
                    id=str(content["client"]),
                    task=str(content.get("task", "default")),
                    expert=int(content["expert"]),
                    distances=tuple(float(value) for value in content.get("distances", ())),
                    margin=float(margin) if margin is not None and math.isfinite(float(margin)) else None,
                    unlike=bool(content.get("unlike", False)),
                    scores={str(k): float(v) for k, v in (content.get("scores") or {}).items() if v is not None},
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"{path} is damaged: {type(error).__name__} {error}") from error
    return tuple(sorted(found, key=lambda newcomer: newcomer.id))
