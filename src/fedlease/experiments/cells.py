"""Cells of a comparison: one run per variant and seed, each in its own folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlease.config.settings import Settings, resolve
from fedlease.errors import ConfigError, RunFolderError
from fedlease.experiments.experiment import Variant, repeated
from fedlease.runs.building import build_method
from fedlease.runs.machine import resolve_machine
from fedlease.runs.open import base_of_run
from fedlease.runs.runner import resume, run_settings
from fedlease.server.events import Listener
from fedlease.storage.environment import read_environment
from fedlease.storage.run_folder import changed_settings, method_files, read_settings
from fedlease.storage.summary import Summary, read_summary

__all__ = ["SHARED", "Cell", "check_bases", "check_settings", "plan", "run_cell", "summary_of"]

SHARED = "shared"
"""Folder of first steps that several cells share."""


@dataclass(frozen=True)
class Cell:
    """One variant on one root seed, with its resolved settings and its run folder."""

    variant: Variant
    seed: int
    settings: Settings
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether it has a result."""
        return (self.folder / "summary.json").is_file()


def plan(settings: Settings, variants: Sequence[Variant], seeds: Sequence[int], out: Path) -> list[Cell]:
    """All cells, ordered by seed, so that all variants can be compared after each seed.

    Raises:
        ConfigError: seeds or names repeat, or variants have different budgets, heads, rows or base models.
        RunFolderError: a folder of a variant is a link.
    """
    faults = [] if seeds else ["seeds: at least one is needed"]
    faults += [f"seeds: {seed} is given twice" for seed in repeated(seeds)]
    faults += [f"seeds: must be at least 0, received {seed}" for seed in seeds if seed < 0]
    names = [variant.name for variant in variants]
    faults += [f"variants: {name!r} is named twice" for name in repeated(names)]
    if faults:
        raise ConfigError(faults)
    # Runs check their own folders for links, but not the folders around them.
    if links := [path for path in (out / name for name in (SHARED, *names)) if path.is_symlink()]:
        raise RunFolderError(f"{links[0]} is a link; a comparison holds files and folders alone")
    cells = []
    for seed in seeds:
        for variant in variants:
            changes = {**variant.changes, "method": variant.method, "baselines": [], "seed": seed}
            resolved = resolve_machine(resolve(base=settings, overrides=changes))
            cells.append(Cell(variant, seed, resolved, out / variant.name / f"seed-{seed}"))
    _check_same_terms(cells)
    return cells


def run_cell(cell: Cell, out: Path, listeners: Sequence[Listener] = (), data: object = None) -> Summary:
    """Runs, resumes or reads a cell, and returns its result; for ``data``, see :func:`run_settings`.

    Raises:
        ConfigError: its folder has a run with other settings.
        InputError, RunFailedError: see :func:`run_settings`.
    """
    check_settings([cell])
    if (cell.folder / "config.yaml").is_file():
        summaries = resume(cell.folder, listeners, out / SHARED, data)
    else:
        summaries = run_settings(cell.settings, cell.folder, listeners, out / SHARED, data)
    return summaries[cell.variant.method]


def summary_of(cell: Cell) -> Summary:
    """The result of a finished cell.

    Raises:
        RunFolderError: it is not finished, or damaged.
    """
    summary = read_summary(method_files(cell.folder, cell.settings, cell.variant.method))
    if summary is None:
        raise RunFolderError(f"{cell.folder} is not finished: it holds no summary.json")
    return summary


def check_settings(cells: Sequence[Cell]) -> None:
    """Checks that existing runs have the settings of their cells.

    Raises:
        ConfigError: one has other settings.
    """
    for cell in cells:
        if (cell.folder / "config.yaml").is_file():
            changed = changed_settings(read_settings(cell.folder), cell.settings)
            if keys := dict.fromkeys(key.split(".")[0] for key, _, _ in changed):
                raise ConfigError(
                    f"out: {cell.folder} holds a run with other settings ({', '.join(keys)}); choose another --out"
                )


def check_bases(cells: Sequence[Cell]) -> None:
    """Checks that the base model has not changed since existing runs began.

    Raises:
        RunFolderError: a run was trained on another base model, so it cannot be compared with new runs.
    """
    same: list[tuple[str, Any]] = []  # a base that several cells share is read once
    for cell in cells:
        if (cell.folder / "config.yaml").is_file():
            run = read_settings(cell.folder)
            place = str(cell.folder) if (cell.folder / "base").exists() else run.model
            known = place, read_environment(cell.folder).base_files
            if known not in same:
                base_of_run(cell.folder, run)
                same.append(known)


def _check_same_terms(cells: Sequence[Cell]) -> None:
    """Checks that budget, head, rows, base model and batch size are the same for all cells."""
    terms: dict[str, Callable[[Settings], object]] = {
        "the budget T (warm-up epochs + rounds x local epochs)": lambda s: build_method(s, s.method, {}).budget.passes,
        "head": lambda s: s.head,
        "data": lambda s: s.data,
        "model": lambda s: (s.model, s.revision, s.dtype),
        "train.batch_size": lambda s: s.train.batch_size,
    }
    first = cells[0]
    faults = [
        f"{cell.variant.name} and {first.variant.name} cannot be compared: {name} differs, "
        f"{term(cell.settings)} and {term(first.settings)}"
        for name, term in terms.items()
        for cell in cells[1:]
        if term(cell.settings) != term(first.settings) and cell.seed == first.seed
    ]
    if faults:
        raise ConfigError(faults)
