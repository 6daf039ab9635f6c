"""A run folder, finished or not -> the values that a report is drawn from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fedlease.config.settings import Settings
from fedlease.core.types import Allocation, Budget
from fedlease.errors import RunFolderError
from fedlease.reporting.means import averaged
from fedlease.reporting.run.data import ClientRows, MethodRun, Point, RunData
from fedlease.reporting.run.samples import read_samples
from fedlease.storage.checkpoint import Checkpoint
from fedlease.storage.contents import Line
from fedlease.storage.documents import checked, parse_json
from fedlease.storage.run_folder import (
    method_files,
    method_folder,
    read_allocation,
    read_clients,
    read_environment,
    read_newcomers,
    read_settings,
)
from fedlease.storage.summary import read_summary

__all__ = ["read_records", "read_run"]


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
        method = _read_method(out, name, settings)
        if name != settings.method and not method.steps and method.summary is None:
            missing.append(name)
        else:
            methods.append(method)
    return RunData(
        name=out.resolve().name,
        settings=settings,
        environment=read_environment(out),
        clients=clients,
        methods=tuple(methods),
        missing=tuple(missing),
        grouping=_read_grouping(out),
        newcomers=read_newcomers(out),
        samples=read_samples({m.name: method_files(out, settings, m.name) for m in methods}, clients),
    )


def _read_method(out: Path, name: str, settings: Settings) -> MethodRun:
    steps = tuple(read_records(method_folder(out, settings, name)))
    summary = read_summary(method_files(out, settings, name))
    content = None if summary is None else summary.content
    return MethodRun(name, steps, content, _points(steps, content, settings))


def read_records(folder: Path) -> list[Line]:
    """The lines of a method's ``rounds.jsonl``; one that a run is writing just now is left out.

    Args:
        folder: of the method.

    Raises:
        RunFolderError: a line is damaged, or they are not those that the run wrote.
    """
    checkpoint = Checkpoint(folder)
    lines = checkpoint.lines()
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{checkpoint.rounds}, line {number}"
        try:
            record: Line = checked(parse_json(line, where), Line, where)
        except RunFolderError:
            if number == len(lines):
                break  # no newline yet
            raise
        records.append(record)
    return records


def _points(steps: Sequence[Line], summary: Mapping[str, Any] | None, settings: Settings) -> tuple[Point, ...]:
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
        merged[summary["passes"]] = {client: float(score) for client, score in averaged(summary).items()}
    return tuple(Point(passes, scores) for passes, scores in sorted(merged.items()) if scores)


def _read_grouping(out: Path) -> Allocation | None:
    content = read_allocation(out)
    if content is None:
        return None
    return Allocation(
        num_experts=content["num_experts"],
        assignment=content["assignment"],
        silhouettes={int(k): float(s) for k, s in sorted(content["silhouettes"].items(), key=lambda i: int(i[0]))},
        distances=torch.tensor(content["distances"], dtype=torch.float64),
        clients=content["clients"],
        warnings=tuple(content.get("warnings", ())),
    )
