"""Reads the data of a report from a run folder, finished or not."""

from collections.abc import Sequence
from pathlib import Path

from fedlease.config.settings import Settings
from fedlease.core.types import Budget
from fedlease.reporting.means import averaged
from fedlease.reporting.run.data import MethodRun, Point, RunData
from fedlease.reporting.run.samples import read_samples
from fedlease.storage.allocation import read_allocation
from fedlease.storage.environment import read_environment
from fedlease.storage.newcomers import read_newcomers
from fedlease.storage.rounds import Line, read_rounds
from fedlease.storage.run_folder import method_files, read_clients, read_settings
from fedlease.storage.summary import Summary, read_row_scores, read_summary

__all__ = ["read_run"]


def read_run(out: Path) -> RunData:
    """Reads a run folder; the run may be finished, running or interrupted.

    Args:
        out: the run folder.

    Raises:
        RunFolderError: it is not a run folder, is damaged, or has another version.
    """
    settings = read_settings(out)
    clients = dict(sorted(read_clients(out).items()))
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
        grouping=read_allocation(out),
        newcomers=read_newcomers(out),
        samples=read_samples({m.name: method_files(out, settings, m.name) for m in methods}, clients),
    )


def _read_method(out: Path, name: str, settings: Settings) -> MethodRun:
    steps = tuple(read_rounds(method_files(out, settings, name).folder))
    files = method_files(out, settings, name)
    summary = read_summary(files)
    rows = read_row_scores(files) if summary is not None and files.has("row_scores.json") else {}
    scores = {client: tuple(map(float, values)) for client, values in rows.items()}
    return MethodRun(name, steps, summary, _points(steps, summary, settings), scores)


def _points(steps: Sequence[Line], summary: Summary | None, settings: Settings) -> tuple[Point, ...]:
    """The score curve; a step scores the received model, so its scores belong to the passes made before the step."""
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
        # Early stopping discards later rounds.
        merged = {passes: scores for passes, scores in merged.items() if passes <= summary.passes}
        merged[summary.passes] = averaged(summary)
    return tuple(Point(passes, scores) for passes, scores in sorted(merged.items()) if scores)
