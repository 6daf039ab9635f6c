"""Runs every cell of a comparison and writes the result as JSON, CSV, Markdown and a page."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedlease.config.settings import Settings
from fedlease.data.reading.csv_rows import as_text
from fedlease.data.reading.examples import client_id_fault
from fedlease.errors import ConfigError, RunFailedError, TooFewUpdatesError, within_limits
from fedlease.experiments.cells import Cell, check_bases, check_settings, plan, run_cell, summary_of
from fedlease.experiments.common_clients import common, coverage, gap, over_clients
from fedlease.experiments.experiment import Variant
from fedlease.experiments.joining import joining, row_metric
from fedlease.experiments.scored_rows import ScoredRows
from fedlease.experiments.statistics import spread
from fedlease.experiments.surviving import Failures, failure_of
from fedlease.files import locked, write_atomically
from fedlease.methods.facts import kind_of
from fedlease.reporting.comparison.data import Failure
from fedlease.reporting.comparison.page import markdown, write_compare_page
from fedlease.reporting.run.data import ALONE
from fedlease.reporting.run.reading import read_run
from fedlease.server.events import Listener
from fedlease.storage.run_files import RunFiles
from fedlease.storage.run_folder import write_json
from fedlease.storage.summary import Summary, read_row_scores

__all__ = ["LEARNING_RATES", "OnCell", "compare", "tune"]

LEARNING_RATES = (3e-4, 1e-3, 3e-3)
OnCell = Callable[[Cell, Summary | Failure | None], None]
"""Receives a cell, and its result: None before the run, then the summary or the failure."""


def compare(
    settings: Settings,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    out: Path,
    *,
    rates: Sequence[float] = (),
    listeners: Sequence[Listener] = (),
    on_cell: OnCell | None = None,
    data: object = None,
    every: bool = False,
) -> dict[str, Any]:
    """Runs the cells that are missing, and writes ``compare.json``, ``.csv``, ``.md`` and ``.html``.

    A variant that fails is listed with its reason under ``failed``, and its further seeds are not run; the other
    variants are compared without it. The same call tries it again.

    Args:
        settings: common settings; method, baselines and seed are set per cell.
        variants: variants, of which the first that does not fail is compared with each of the others.
        seeds: seeds of the cells.
        out: folder; cells are in ``out/<variant>/seed-<s>``.
        rates: learning rates, of which one is chosen for each variant on validation rows of the first seed; if empty,
            all use that of the settings.
        listeners: receive every event of every run.
        on_cell: called before and after every cell.
        data: rows in memory, see :func:`fedlease.data.load.load_federation`.
        every: whether the variants are all known methods; settings that a method does not allow are then its failure
            instead of an error.

    Returns:
        The content of ``compare.json``.

    Raises:
        ConfigError: the cells do not fit together, or ``out`` has other ones.
        RunFolderError: the rows or the base model have changed since cells in ``out`` were run.
        RunFailedError: a limit of the machine was reached; finished cells stay.
        Exception: every variant failed; this is the last error.
    """
    rules = {variant.name: client_id_fault(variant.name) for variant in variants}
    if faults := [f"variants: a name {rule}, received {name!r}" for name, rule in rules.items() if rule]:
        raise ConfigError(faults)  # names are folders
    failures = Failures(out)
    if every:
        failures.check_settings(settings, variants, *seeds[:1])
    left = failures.survivors(variants)
    plan(settings, left, seeds, out)  # everything is checked before anything is trained
    remedy = "make room and run the same command again; finished cells stay"
    with locked(out, "comparison"), within_limits(f"the comparison in {out} stopped", remedy):
        chosen: dict[str, Any] = {}
        if rates:
            left, chosen = _tuned(settings, left, seeds[0], out, rates, failures, (listeners, on_cell, data))
        cells = plan(settings, left, seeds, out)
        rows = ScoredRows.of([cell for cell in cells if cell.variant is left[0]], data)
        for variant in left:
            rows.check([cell for cell in cells if cell.variant is variant])
        check_settings(cells)
        check_bases(cells)
        for cell in cells:
            failures.attempt(cell.variant, cell.seed, partial(_run, cell, out, listeners, on_cell, data))
        names = [variant.name for variant in failures.survivors(left)]
        content = {
            **_summarised([cell for cell in cells if cell.variant.name in names], rows),
            "learning_rates": {name: scores for name, scores in chosen.items() if name in names},
            "failed": {name: asdict(failure) for name, failure in failures.found.items()},
        }
        write_json(out / "compare.json", content)
        write_atomically(out / "compare.csv", _csv(content).encode())
        write_atomically(out / "compare.md", markdown(content).encode())
        write_compare_page(content, out)
    return content


def tune(
    settings: Settings,
    variant: Variant,
    seed: int,
    out: Path,
    rates: Sequence[float] = LEARNING_RATES,
    listeners: Sequence[Listener] = (),
    on_cell: OnCell | None = None,
    data: object = None,
) -> tuple[Variant, dict[str, float | None]]:
    """Returns the variant with the learning rate that scores best on validation rows, and the scores of all rates.

    Of equal rates the smaller is chosen. Test rows are not read: runs are scored on ``data.valid_fraction`` of every
    client's train rows. A rate at which training fails for too many clients has no score.

    Raises:
        ConfigError: no validation rows are held out.
        RunFailedError: no rate has a score.
    """
    if settings.data.valid_fraction == 0:
        raise ConfigError("data.valid_fraction: must be above 0 where a learning rate is chosen, received 0")
    scores: dict[str, float | None] = {}
    reached = {}
    reasons = []
    for rate in sorted(rates):
        changes = {**variant.changes, "train.lr": rate, "data.score_rows": "valid"}
        trial = replace(variant, name=f"{variant.name}/lr-{rate:g}", changes=changes)
        (cell,) = plan(settings, [trial], [seed], out / "tuning")
        try:
            scores[f"{rate:g}"] = mean = _run(cell, out, listeners, on_cell, data).mean
            if mean is None:
                reasons.append(f"{rate:g}: no client was scored")
            else:
                reached[rate] = mean
        except TooFewUpdatesError as error:  # training diverged at this rate
            scores[f"{rate:g}"] = None
            reasons.append(f"{rate:g}: {error}")
    if not reached:
        raise RunFailedError(f"{variant.name} cannot be trained at any of the learning rates. {'; '.join(reasons)}")
    best = max(reached, key=lambda rate: reached[rate])
    return replace(variant, changes={**variant.changes, "train.lr": best}), scores


def _tuned(
    settings: Settings,
    variants: Sequence[Variant],
    seed: int,
    out: Path,
    rates: Sequence[float],
    failures: Failures,
    shown: tuple[Sequence[Listener], OnCell | None, object],
) -> tuple[list[Variant], dict[str, Any]]:
    """The variants that can be trained, each with its chosen rate, and the scores of all rates."""
    tuned: list[Variant] = []
    chosen: dict[str, Any] = {}

    def choose(variant: Variant) -> None:
        found, chosen[variant.name] = tune(settings, variant, seed, out, rates, *shown)
        tuned.append(found)

    for variant in variants:
        failures.attempt(variant, None, partial(choose, variant))
    return failures.survivors(tuned), chosen


def _summarised(cells: Sequence[Cell], scored: ScoredRows) -> dict[str, Any]:
    """The results of finished cells, and the differences of the first variant to each of the others."""
    by_variant: dict[str, list[Cell]] = {}
    for cell in cells:
        by_variant.setdefault(cell.variant.name, []).append(cell)
    for finished in by_variant.values():
        scored.check(finished)
    summaries = {name: [summary_of(cell) for cell in own] for name, own in by_variant.items()}
    row_scores = {
        name: [
            {client: np.array([float(value) for value in values]) for client, values in content.items()}
            for content in (read_row_scores(RunFiles(cell.folder)) for cell in own)
        ]
        for name, own in by_variant.items()
    }
    first = next(iter(by_variant))
    seeds = [cell.seed for cell in by_variant[first]]
    clients = common(summaries, seeds)
    means = {
        n: [over_clients(s, shared) for s, shared in zip(own, clients, strict=True)] for n, own in summaries.items()
    }
    tasks = sorted(set.intersection(*(set(found["per_task"]) for found in means[first])))
    rows: dict[str, dict[str, Any]] = {}
    for name, own in summaries.items():
        found = means[name]
        rows[name] = {
            "method": own[0].method,
            "kind": kind_of(own[0].method),
            "changes": dict(by_variant[name][0].variant.changes),
            **{key: asdict(spread([m[key] for m in found])) for key in ("mean", "weighted_mean", "worst_client")},
            "per_task": {task: asdict(spread([m["per_task"][task] for m in found])) for task in tasks},
            "own_expert_mean": [m["own_expert_mean"] for m in found],
            "num_experts": [s.num_experts for s in own],
            "bytes_up": [s.bytes_up for s in own],
            "bytes_down": [s.bytes_down for s in own],
            "seconds": [sum(s.seconds.values()) for s in own],
            "trainable_parameters": own[0].trainable_parameters,
            "points": [_points_of(cell) for cell in by_variant[name]],
        }
    others = [name for name in rows if name != first]
    differences = {
        name: gap((summaries[first], row_scores[first]), (summaries[name], row_scores[name]), scored.keys)
        for name in others
    }
    reference = summaries[first][0]
    alone = next((name for name in others if rows[name]["method"] == ALONE), None)
    verdict = joining(
        first,
        (summaries[first], row_scores[first]),
        None if alone is None else (summaries[alone], row_scores[alone]),
        scored.keys,
        row_metric(summaries[first], row_scores[first]),
    )
    return {
        "metric": reference.metric,
        "learnt": reference.learnt,
        "head": reference.head,
        "passes": reference.passes,
        "num_clients": reference.num_clients,
        "coverage": coverage(summaries, seeds, clients),
        "seeds": seeds,
        "first": first,
        "best_other": max(others, key=lambda name: rows[name]["mean"]["mean"]) if others else None,
        "majority_mean": spread([m["majority_mean"] for m in means[first]]).mean,
        "variants": rows,
        "differences": differences,
        "verdict": verdict.content,
    }


def _run(cell: Cell, out: Path, listeners: Sequence[Listener], on_cell: OnCell | None, data: object) -> Summary:
    tell = on_cell or (lambda cell, result: None)
    tell(cell, None)
    try:
        summary = run_cell(cell, out, listeners, data)
    except Exception as error:
        tell(cell, failure_of(cell.variant, cell.seed, error))
        raise
    tell(cell, summary)
    return summary


def _points_of(cell: Cell) -> list[dict[str, Any]]:
    """The mean over clients by passes over their rows, as in the report of the run."""
    points = read_run(cell.folder).main.points
    return [{"passes": point.passes, "mean": point.mean, "clients": len(point.scores)} for point in points]


def _csv(content: Mapping[str, Any]) -> str:
    """One line per variant, seed and task, and one per variant and seed for the mean."""
    target = io.StringIO(newline="")
    writer = csv.writer(target)
    writer.writerow(["variant", "method", "seed", "task", content["metric"]])
    for name, row in content["variants"].items():
        for i, seed in enumerate(content["seeds"]):
            for task, values in row["per_task"].items():
                writer.writerow([as_text(name), row["method"], seed, as_text(task), values["values"][i]])
            start = [as_text(name), row["method"], seed]
            writer.writerow([*start, "mean over clients", row["mean"]["values"][i]])
            writer.writerow([*start, "clients in the mean", content["coverage"][i]["averaged"]])
    return target.getvalue()
