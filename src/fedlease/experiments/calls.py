"""A comparison of methods from one call."""

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
    """Runs several methods on several seeds on the same terms: means, spread, paired intervals.

    Args:
        config: settings of all runs, as of :func:`fedlease.run`, and likewise ``overrides``.
        methods: names; the first is compared with the others. ``["all"]``: every method that is known.
        seeds: of the runs.
        data: rows, as of :func:`fedlease.run`; None takes those of the settings.
        out: folder, which holds ``compare.html`` at the end; runs that it has already are not run again.
        tune_lr: whether every method gets its own learning rate, by validation rows of the first seed.
        progress: whether to show how far it is, on standard error or in the notebook.

    Returns:
        The content of ``compare.json``; methods that failed are under ``failed``, each with its reason, and the same
        call tries them again.

    Raises:
        InputError: something given is wrong, or ``out`` holds other runs; nothing was trained.
        RunFailedError: the machine has no room, or no method could be run; the same call goes on.
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
