"""Measures what liars cost honest clients, for every attack, phase and mean: ``fedlease reproduce attacks``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from fedlease.config.data import DataSettings
from fedlease.config.faults import nearest
from fedlease.config.settings import Settings, resolve
from fedlease.core.types import ClientId
from fedlease.data.federation import Federation
from fedlease.data.load import load_federation
from fedlease.data.sources import synthetic
from fedlease.errors import ConfigError
from fedlease.experiments.liars import ATTACKS, Attack, Liars, When, triggered
from fedlease.files import write_atomically
from fedlease.reporting.tables import Cell, Table
from fedlease.runs.runner import resume, run_settings
from fedlease.server.transport import Transport
from fedlease.storage.run_folder import write_json
from fedlease.storage.summary import Summary
from fedlease.use.open_run import OpenRun
from fedlease.use.predict import predict

__all__ = ["MEANS", "attacks", "cells_of", "markdown"]

MEANS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "trimmed": {"fedlease.average": "trimmed", "fedlease.trim": 0.25},
    "median": {"fedlease.average": "median"},
    "geometric-median": {"fedlease.average": "geometric-median"},
    "guarded": {"bounds.guarded": True},
}
"""Name of a mean -> its settings. ``bounds.guarded`` is a median that also refuses updates in opposite directions."""

BOTH: tuple[When, ...] = ("both",)
PHASES: tuple[When, ...] = ("warm-up", "rounds", *BOTH)
PLANTED: Mapping[str, Any] = {
    "preset": "smoke", "baselines": [], "data.max_tokens": 32, "train.lr": 5e-3, "train.local_epochs": 2,
    "warmup.epochs": 6, "rounds": 4, "data.train_rows": None, "data.test_rows": None, "keep_predictions": False,
}  # fmt: skip
GLUE: Mapping[str, Any] = {
    "preset": "glue-small", "baselines": [], "data.tasks": ["sst2", "qqp"], "data.clients_per_task": 4,
    "keep_predictions": False,
}  # fmt: skip
PLANTED_ROWS = 96

OnCell = Callable[[str, int, int], None]
"""Receives the name of a cell that begins, the number of cells done, and the number of all cells."""


@dataclass(frozen=True)
class _Cell:
    attack: str
    when: When
    mean: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.attack}/{self.when}/{self.mean}/seed-{self.seed}"


def cells_of(only: Sequence[str], seeds: Sequence[int]) -> list[_Cell]:
    """The cells for the named attacks and means; attacks by other rows, or by two liars, are run for ``both`` only.

    Raises:
        ConfigError: a name is neither an attack nor a mean.
    """
    known = (*ATTACKS, *MEANS)
    if faults := [
        f"only: {name!r} is no attack and no mean{nearest(name, known)}" for name in only if name not in known
    ]:
        raise ConfigError(faults)
    attacks, means = [name for name in ATTACKS if name in only], [name for name in MEANS if name in only]
    chosen = {name: attack for name, attack in ATTACKS.items() if not attacks or name in attacks or name == "none"}
    return [
        _Cell(name, when, mean, seed)
        for seed in seeds
        for mean in means or MEANS
        for name, attack in chosen.items()
        for when in (PHASES if attack.lie is not None and attack.liars == 1 else BOTH)
    ]


def attacks(
    out: Path,
    *,
    data: Path | None = None,
    seeds: Sequence[int] = (0,),
    only: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    on_cell: OnCell | None = None,
) -> dict[str, Any]:
    """Runs the cells that are missing, and writes ``attacks.json`` and ``attacks.md``.

    There are two tasks of four clients each. In the last task, the last client lies, or the last two. Test rows are
    never changed. Losses of honest clients are relative to the run with the same mean and seed in which nobody lies.

    Args:
        out: folder with a run per cell.
        data: folder of GLUE files; None takes planted rows and the tiny model.
        seeds: seeds of the runs.
        only: names of attacks and of :data:`MEANS`; without names of attacks all attacks, likewise for means.
        changes: dotted settings that override those of all runs.
        on_cell: called before every run.

    Returns:
        The content of ``attacks.json``.

    Raises:
        InputError, RunFailedError: see :func:`fedlease.run`; finished runs stay.
    """
    common = dict(PLANTED) if data is None else {**GLUE, "data.path": str(data)}
    cells = cells_of(only, seeds)
    found: dict[_Cell, dict[str, Any]] = {}
    for done, cell in enumerate(cells):
        if on_cell is not None:
            on_cell(cell.name, done, len(cells))
        found[cell] = _run(out, cell, {**common, **MEANS[cell.mean], "seed": cell.seed, **(changes or {})}, data)
    rows = [*_rows(found)]
    content = {"rows": "planted" if data is None else "glue", "seeds": list(seeds), "cells": rows}
    write_json(out / "attacks.json", content)
    write_atomically(out / "attacks.md", markdown(content).encode())
    return content


def _run(out: Path, cell: _Cell, changes: Mapping[str, Any], data: Path | None) -> dict[str, Any]:
    """The result of one run: honest clients of both tasks, scores, suspects, and how often a trigger works."""
    attack, folder = ATTACKS[cell.attack], out / cell.name
    federation = _planted(cell.seed) if data is None else None
    settings = resolve(overrides={**changes, **({"data.source": "memory"} if federation is not None else {})})
    if federation is None:
        federation = load_federation(settings.data, settings.seed, settings.task)
    last = max(client.task for client in federation)
    liars = frozenset([client.id for client in federation if client.task == last][-attack.liars :][: attack.liars])
    summary = _summary(folder, settings, _with_rows(federation, attack, liars), cell, attack, liars)
    scores: dict[ClientId, float] = {client: row.content[summary.metric] for client, row in summary.per_client.items()}
    tasks = {client: row.task for client, row in summary.per_client.items()}
    honest = [client for client in scores if client not in liars]
    return {
        "beside": [c for c in honest if tasks[c] == last],
        "others": [c for c in honest if tasks[c] != last],
        "scores": scores,
        "suspects": sorted(summary.suspects),
        "trigger": _success(folder, federation, [c for c in honest if tasks[c] == last]),
    }


def _summary(
    folder: Path, settings: Settings, rows: Federation, cell: _Cell, attack: Attack, liars: frozenset[ClientId]
) -> Summary:
    def around(transport: Transport) -> Transport:
        return Liars(transport, attack, liars, cell.when, cell.seed)

    # The first step, which clients train alike under every mean and attack, is shared.
    shared = folder.parents[3] / "shared" / str(cell.seed)
    given = rows if settings.data.source == "memory" else None
    if (folder / "config.yaml").exists():
        summaries = resume(folder, shared=shared, data=given, around=around)
    else:
        summaries = run_settings(settings, folder, shared=shared, data=given, rows=rows, around=around)
    return next(iter(summaries.values()))


def _planted(seed: int) -> Federation:
    """Two tasks that the tiny model learns, whose labels depend on the first word and on the last word."""
    data = DataSettings(source="synthetic", clients_per_task=4, train_rows=PLANTED_ROWS, test_rows=PLANTED_ROWS)
    made = synthetic.load(data, seed, num_tasks=3)
    return Federation.of([client for client in made if client.task != "planted-0"])


def _with_rows(federation: Federation, attack: Attack, liars: frozenset[ClientId]) -> Federation:
    """The federation with the train rows of liars replaced, if the attack does that."""
    if attack.rows is None:
        return federation
    rows = [replace(c, train=attack.rows(c)) if c.id in liars else c for c in federation]
    return Federation.of(rows, federation.warnings, federation.skipped)


def _success(folder: Path, federation: Federation, clients: Sequence[ClientId]) -> float:
    """Share of test rows with other labels for which the first label is predicted if they have the trigger."""
    run, hits = OpenRun(folder), []
    for client in clients:
        own = federation.clients[client]
        rows = [triggered(row) for row in own.test if row.label]
        hits += [found["prediction"] == own.labels[0] for found in predict(run, client, rows)]
    return float(sum(hits)) / max(1, len(hits))


def _rows(found: Mapping[_Cell, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row per attack, phase and mean, with means over the seeds in points."""
    means = {cell.mean for cell in found}
    kinds = dict.fromkeys((cell.attack, cell.when, cell.mean) for cell in found)
    for attack, when, mean in kinds:
        losses: dict[str, list[float]] = {"beside": [], "others": []}
        scores: dict[str, list[float]] = {"beside": [], "others": []}
        trigger, clean, named = [], [], 0
        for cell, result in found.items():
            if (cell.attack, cell.when, cell.mean) != (attack, when, mean):
                continue
            clear = found[_Cell("none", "both", "plain" if attack == "none" and "plain" in means else mean, cell.seed)]
            for where in losses:
                clients = result[where]
                scores[where].append(100 * fmean(result["scores"][c] for c in clients))
                losses[where].append(100 * fmean(clear["scores"][c] - result["scores"][c] for c in clients))
            trigger.append(100 * result["trigger"])
            clean.append(100 * clear["trigger"])
            named += bool(result["suspects"])
        yield {
            "attack": attack, "when": when, "mean": mean, "words": ATTACKS[attack].words,
            **{f"score_{where}": fmean(values) for where, values in scores.items()},
            **{f"loss_{where}": fmean(values) for where, values in losses.items()},
            "trigger": fmean(trigger), "trigger_of_nobody": fmean(clean), "named": named, "runs": len(trigger),
        }  # fmt: skip


def markdown(content: Mapping[str, Any]) -> str:
    """The table of the experiment, from the content of ``attacks.json``."""
    means = list(dict.fromkeys(row["mean"] for row in content["cells"]))
    by = {(row["attack"], row["when"], row["mean"]): row for row in content["cells"]}
    rows = []
    for attack, when in dict.fromkeys((row["attack"], row["when"]) for row in content["cells"]):
        cells = [Cell(attack), Cell("-" if attack == "none" else when)]
        for mean in means:
            row = by.get((attack, when, mean))
            cells.append(Cell("" if row is None else f"{row['loss_beside']:+.1f} / {row['loss_others']:+.1f}"))
        worst = [row for mean in means if (row := by.get((attack, when, mean))) is not None]
        cells.append(Cell("/".join(f"{row['trigger']:.0f}" for row in worst) if attack in ("none", "backdoor") else ""))
        cells.append(Cell(f"{sum(row['named'] for row in worst)} of {sum(row['runs'] for row in worst)}"))
        rows.append(tuple(cells))
    header = ("attack", "when", *means, "trigger works, %", "named in")
    seeds = ", ".join(map(str, content["seeds"]))
    lines = [
        f"# attacks, {content['rows']} rows", "",
        "Points that honest clients lose, in the liar's task / in the other one, against the same mean without a liar; "
        f"in the first row, against the plain mean. Two tasks of four clients; seeds {seeds}. Plain scores: "
        + ", ".join(f"{by['none', 'both', m]['score_beside']:.1f} / {by['none', 'both', m]['score_others']:.1f} ({m})"
                    for m in means) + ".",
        "",
        *Table("", header, tuple(rows)).markdown(),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
