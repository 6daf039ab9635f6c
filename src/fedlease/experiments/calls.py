"""The function that compares methods."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlease.config.call import settings_of_call
from fedlease.config.settings import Settings
from fedlease.errors import ConfigError
from fedlease.experiments.experiment import ALL, variants_of
from fedlease.experiments.watching import watched_cells

if TYPE_CHECKING:
    from fedlease.experiments.cells import Cell

__all__ = ["compare"]


def compare(
    config: str | Path | Mapping[str, Any] | Settings | None = None,
    methods: Sequence[str] = ("fedlease", "fedit", "local"),
    seeds: Sequence[int] = (0, 1, 2),
    *,
    data: object = None,
    out: str | Path = "runs/compare",
    tune_lr: bool = False,
    progress: bool = True,
    **overrides: Any,
) -> dict[str, Any]:
    """Compares methods over several seeds on the same rows and budget: means, spread and paired intervals.

    Args:
        config: settings of all runs, as for :func:`fedlease.run`.
        methods: names of methods; the first is compared with the others. ``["all"]`` stands for all known methods.
        seeds: seeds of the runs.
        data: rows, as for :func:`fedlease.run`; None takes those of the settings.
        out: folder, with ``compare.html`` at the end; finished runs in it are not repeated.
        tune_lr: whether to choose a learning rate for every method, on validation rows of the first seed.
        progress: whether to show progress, on standard error or in the notebook.
        **overrides: as for :func:`fedlease.run`.

    Returns:
        The content of ``compare.json``; methods that failed are under ``failed`` with their reasons, and the same call
        tries them again.

    Raises:
        InputError: an argument is wrong, or ``out`` has other runs; nothing was trained.
        RunFailedError: a limit of the machine was reached, or no method could be run; the same call continues.
    """
    if isinstance(methods, str):
        raise ConfigError(f"methods: must be a list of names, received {methods!r}")
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    settings, variants = settings_of_call(config, changes, data), variants_of(methods)

    def name_of(cell: "Cell") -> str:
        return f"{cell.variant.name}, seed {cell.seed}"

    rows = data if settings.data.source == "memory" else None
    with watched_cells(f"Comparison in {out}: loading libraries", name_of, progress=progress) as shown:
        from fedlease.experiments.compare import LEARNING_RATES
        from fedlease.experiments.compare import compare as run_all

        rates = LEARNING_RATES if tune_lr else ()
        return run_all(
            settings, variants, list(seeds), Path(out), rates=rates, data=rows, every=[*methods] == [ALL], **shown
        )
