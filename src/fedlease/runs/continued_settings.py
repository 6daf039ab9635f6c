"""The settings of a run that continues another one, read before libraries that take seconds to load."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlease.config.added_sections import section_of
from fedlease.config.layers import differences
from fedlease.config.settings import Settings, resolve
from fedlease.errors import ConfigError
from fedlease.methods.registry import METHODS
from fedlease.storage.run_folder import method_files, read_settings
from fedlease.storage.summary import read_result

__all__ = ["continued_settings", "rounds_behind"]

STAYS = (
    "seed", "method", "task", "metric", "model", "revision", "dtype", "base.", "lora.", "head", "warmup.",
    "train.local_epochs", "server_step.", "generation.template", *(f"{section_of(name)}." for name in METHODS),
)  # fmt: skip
"""Settings on which the trained tensors depend; only others may change between the old run and the new one."""
MAY_CHANGE = re.compile(r"fedlease(_plus)?\.(admitted|unlike|reallocate)")
"""Exceptions: settings of these groups that may change."""


def continued_settings(folder: Path, overrides: Mapping[str, Any] | Sequence[str]) -> Settings:
    """The settings of a run that continues another one: those of the old run with changes.

    Args:
        folder: of the old run.
        overrides: as for :func:`fedlease.config.settings.resolve`; ``rounds`` may be ``+5``, for five more than the old
            run has made, and must be more than these.

    Raises:
        RunFolderError: the folder has no run, or a damaged one.
        ConfigError: every setting that cannot be changed in this way.
    """
    old = read_settings(folder)
    done = rounds_behind(folder, old)
    settings = resolve(base=old, overrides=_counted_from(done, overrides))
    faults = [
        f"{key}: must be {there!r} as in {folder}, which the run continues, received {here!r}"
        for key, there, here in differences(old.model_dump(mode="json"), settings.model_dump(mode="json"))
        if key.startswith(STAYS) and not MAY_CHANGE.fullmatch(key)
    ]
    faults += [
        f"baselines: {name!r} is not a baseline of {folder}, so it cannot be continued"
        for name in settings.baselines
        if name not in old.baselines
    ]
    if settings.rounds <= done:
        faults.append(f"rounds: must be above the {done} of {folder}, received {settings.rounds}; +5 means five more")
    if faults:
        raise ConfigError(faults)
    return settings


def rounds_behind(folder: Path, settings: Settings) -> int:
    """Number of rounds by which the main method's models were trained, fewer than planned after early stopping."""
    summary = read_result(method_files(folder, settings, settings.method))
    stopped = None if summary is None else summary.early_stopping
    return settings.rounds - (stopped.planned - stopped.best_round if stopped is not None else 0)


def _counted_from(rounds: int, overrides: Mapping[str, Any] | Sequence[str]) -> Mapping[str, Any] | list[str]:
    """The changes with ``rounds=+5`` replaced by the sum."""
    if isinstance(overrides, Mapping):
        return {key: _sum(rounds, value) if key == "rounds" else value for key, value in overrides.items()}
    pairs = [(word, *word.partition("=")[::2]) for word in overrides]
    return [f"rounds={_sum(rounds, text.strip())}" if key.strip() == "rounds" else word for word, key, text in pairs]


def _sum(rounds: int, value: Any) -> Any:
    more = re.fullmatch(r"\+\s*([0-9]{1,9})", value) if isinstance(value, str) else None
    return value if more is None else rounds + int(more[1])
