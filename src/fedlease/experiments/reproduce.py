"""Runs an experiment of the catalogue: a comparison per scenario, and a page with reproduced and published figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from fedlease.config.faults import nearest, setting_names
from fedlease.config.layers import parse_overrides
from fedlease.config.settings import Settings, resolve
from fedlease.data.load import load_federation
from fedlease.errors import ConfigError, RunFailedError, RunFolderError
from fedlease.experiments.catalogue import find, preset_of
from fedlease.experiments.cells import Cell, plan, summary_of
from fedlease.experiments.compare import OnCell, compare
from fedlease.experiments.experiment import Experiment, Scenario, Variant, evaluated
from fedlease.experiments.reproduce_tables import markdown
from fedlease.files import write_atomically
from fedlease.reporting.run.reading import read_run
from fedlease.reporting.run.usage_numbers import usage_by_depth
from fedlease.server.events import Listener
from fedlease.storage.rounds import read_rounds
from fedlease.storage.run_folder import write_json

__all__ = ["PlannedScenario", "Reproduction", "planned", "reproduce"]

ELSEWHERE = {"method": "--only", "baselines": "--only", "seed": "--seeds", "preset": "--scale"}
"""Setting that the caller cannot change -> the option that chooses it."""


@dataclass(frozen=True)
class PlannedScenario:
    """A comparison that is ready to be run.

    Attributes:
        name: name of the scenario; empty for the only one.
        settings: common settings of its variants.
        variants: variants with evaluated changes.
        folder: folder of the comparison.
        cells: cells with resolved settings.
    """

    name: str
    settings: Settings
    variants: tuple[Variant, ...]
    folder: Path
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Reproduction:
    """An experiment at one scale, checked but not begun; ``changes`` are the caller's dotted settings."""

    name: str
    scale: str
    seeds: tuple[int, ...]
    out: Path
    changes: Mapping[str, Any]
    scenarios: tuple[PlannedScenario, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of all scenarios, in the order in which they are run."""
        return tuple(cell for scenario in self.scenarios for cell in scenario.cells)


def planned(
    name: str,
    scale: str = "small",
    seeds: Sequence[int] = (0, 1, 2),
    *,
    data: Path | None = None,
    changes: Mapping[str, Any] | Sequence[str] = (),
    only: Sequence[str] = (),
    out: Path | None = None,
) -> Reproduction:
    """Resolves every cell; reads no rows and loads no model.

    Args:
        name: a key of ``EXPERIMENTS``.
        scale: ``small`` or ``paper``.
        seeds: seeds of the cells.
        data: folder of the rows; None takes the rows from the hub.
        changes: settings that override those of all variants, ``key=value`` strings or dotted keys with values.
        only: names of variants; if empty, all of them.
        out: folder; None is ``runs/reproduce/<name>-<scale>``.

    Raises:
        ConfigError: a name is unknown, the experiment itself varies a setting, or cells do not fit together.
    """
    experiment = find(name)
    preset = preset_of(experiment, scale)
    mine, faults = parse_overrides(changes, {*setting_names(Settings, text=True), "preset"})
    if data is not None:
        if "data.path" in mine:
            faults.append("data.path: is given by --data and by --set; leave one of them out")
        mine["data.path"] = str(data)
    variants = [variant for variant in experiment.variants if scale in variant.scales]
    scenarios = [scenario for scenario in experiment.scenarios if scale in scenario.scales]
    faults += _not_the_callers(name, mine, [*variants, *scenarios])
    names = [variant.name for variant in variants]
    faults += [f"only: {name!r} has no variant {o!r}{nearest(o, names)}" for o in only if o not in names]
    if faults:
        raise ConfigError(faults)
    variants = [variant for variant in variants if not only or variant.name in only]
    settings = resolve(preset=preset, overrides=mine)
    folder = out or Path("runs") / "reproduce" / f"{name}-{scale}"
    ready = tuple(_planned(settings, scenario, variants, seeds, folder) for scenario in scenarios)
    return Reproduction(name, scale, tuple(seeds), folder, mine, ready)


def reproduce(
    ready: Reproduction, *, listeners: Sequence[Listener] = (), on_cell: OnCell | None = None
) -> dict[str, Any]:
    """Runs missing cells, and writes ``reproduce.json``, ``reproduce.md`` and each scenario's ``compare.*``.

    Returns:
        The content of ``reproduce.json``.

    Raises:
        InputError, RunFailedError: see :func:`compare`; also if a variant fails. Finished cells stay.
    """
    experiment = find(ready.name)
    if len(ready.scenarios) > 1:
        # A scenario with too few rows fails before any is trained.
        for one in ready.scenarios:
            if not all(cell.finished for cell in one.cells):
                load_federation(one.settings.data, ready.seeds[0], one.settings.task)
    parts = []
    for one in ready.scenarios:
        content = compare(one.settings, one.variants, ready.seeds, one.folder, listeners=listeners, on_cell=on_cell)
        for name, failure in content["failed"].items():  # the tables need every variant
            raise RunFailedError(f"{name}, seed {failure['seed']}: {failure['reason']}")
        parts.append({"part": one.name, "comparison": content, **_added(experiment, one)})
    content = {
        "experiment": ready.name,
        "scale": ready.scale,
        "asks": experiment.asks,
        "how": experiment.how,
        "seeds": list(ready.seeds),
        "changes": dict(ready.changes),
        "parts": parts,
        "means_over_parts": _means(parts) if experiment.over_scenarios else {},
        "paper": {name: asdict(row) for name, row in experiment.paper.items()},
        "paper_words": experiment.paper_words,
    }
    write_json(ready.out / "reproduce.json", content)
    write_atomically(ready.out / "reproduce.md", markdown(content).encode())
    return content


def _not_the_callers(name: str, mine: Mapping[str, Any], varied: Sequence[Variant | Scenario]) -> list[str]:
    fixed = {key for entry in varied for key, value in entry.changes.items() if not callable(value)}
    faults = []
    for key in mine:
        if key in ELSEWHERE:
            faults.append(f"{key}: cannot be set here; it is chosen by {ELSEWHERE[key]}")
        faults += [
            f"{key}: cannot be set here; the experiment {name!r} sets {own}"
            for own in sorted(fixed)
            if own == key or own.startswith(f"{key}.")
        ]
    return faults


def _planned(
    settings: Settings, scenario: Scenario, variants: Sequence[Variant], seeds: Sequence[int], out: Path
) -> PlannedScenario:
    common = resolve(base=settings, overrides=evaluated(scenario.changes, settings))
    own = tuple(replace(variant, changes=evaluated(variant.changes, common)) for variant in variants)
    folder = out / scenario.name if scenario.name else out
    return PlannedScenario(scenario.name, common, own, folder, tuple(plan(common, own, seeds, folder)))


def _means(parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    rows = [part["comparison"]["variants"] for part in parts]
    return {name: fmean(row[name]["mean"]["mean"] for row in rows) for name in rows[0]}


def _added(experiment: Experiment, ready: PlannedScenario) -> dict[str, Any]:
    if experiment.adds == "usage":
        return {"usage": _usage(ready.cells)}
    if experiment.adds == "overhead":
        names = [variant.name for variant in ready.variants]
        cells = {name: [cell for cell in ready.cells if cell.variant.name == name] for name in names}
        return {"overhead": {name: _overhead(own) for name, own in cells.items()}}
    return {}


def _usage(cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """Layer -> task -> experts per token, mean over the seeds with a router."""
    found: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        for layer in usage_by_depth(read_run(cell.folder)):
            row = found.setdefault(layer.name, {})
            for task, value in {**layer.by_task, "all": layer.overall}.items():
                row.setdefault(task, []).append(value)
    return {layer: {task: fmean(values) for task, values in row.items()} for layer, row in found.items()}


def _overhead(cells: Sequence[Cell]) -> dict[str, float | None]:
    """Seconds of the allocation and of one client's pass over its rows, as means over seeds.

    Raises:
        RunFolderError: the summary of a cell lacks the number of clients or passes.
    """
    allocations, epochs = [], []
    for cell in cells:
        summary = summary_of(cell)
        if not summary.num_clients or not summary.passes or "train" not in summary.seconds:
            raise RunFolderError(
                f"{cell.folder / 'summary.json'} is damaged: num_clients, passes and seconds are needed"
            )
        epochs.append(summary.seconds["train"] / (summary.num_clients * summary.passes))
        if summary.num_experts is not None:
            # Earlier waves of the warm-up only collect updates, which takes a negligible time.
            steps = read_rounds(cell.folder)
            allocations.append(sum(s.seconds["aggregate"] for s in steps if s.round == 0 and not s.failed))
    return {"allocation": fmean(allocations) if allocations else None, "local_epoch": fmean(epochs)}
