"""Settings of differential privacy, and what cannot be had with it."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from fedlease.config.sections import Section
from fedlease.config.tables import known_tasks, task_facts
from fedlease.methods.registry import CENTRALISED

__all__ = ["PrivacySettings", "privacy_faults"]


class PrivacySettings(Section):
    """What a client's training may tell of any one of its train rows; needs the extra ``privacy``."""

    epsilon: Annotated[float, Field(ge=0.01, le=100)] | None = None
    """Differential privacy of every client's train rows, over all that it trains in the run: with ``epsilon`` and
    ``delta`` no observer of what leaves a client can tell well whether a row was there. Each client finds the noise for
    its own number of rows before it begins. 1 is strong, 8 is usual, null adds no noise."""
    delta: Annotated[float, Field(gt=0, lt=0.01)] = 1e-5
    """Probability with which ``epsilon`` may fail; well below one divided by a client's train rows."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Longest gradient of a row; longer ones are scaled down to it. It takes the place of ``train.clip_norm``."""


def privacy_faults(raw: Mapping[str, Any]) -> Iterator[str]:
    """Settings that would let through what noise does not cover."""
    if _of(raw, "privacy", "epsilon") is None:
        return
    yield from (
        f"{key}: {rule} with privacy.epsilon, received {value!r}"
        for key, value, allowed, rule in (
            (
                "early_stopping.patience",
                _of(raw, "early_stopping", "patience"),
                None,
                "compares scores of validation rows, which noise does not cover; must be null",
            ),
            (
                "train.class_weights",
                _of(raw, "train", "class_weights") or "none",
                "none",
                "weighs every row by how many others have its label; must be none",
            ),
            (
                "task",
                raw.get("task") if _learns_numbers(raw.get("task")) else None,
                None,
                "scales numbers by the mean and the deviation of a client's own rows, which noise does not cover; "
                "must be one that learns no numbers",
            ),
            *_of_groupings(raw),
        )
        if value != allowed
    )
    if CENTRALISED in _methods(raw):
        yield f"method: {CENTRALISED} pools the rows of all clients, which privacy.epsilon is to protect"


def _of_groupings(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any, str]]:
    """What the groupings of FedLEASE ask of single clients, as it turns out in the run."""
    for method in sorted({"fedlease", "fedlease-plus"} & {*map(str, _methods(raw))}):
        section = method.replace("-", "_")
        yield (
            f"{section}.longer",
            _of(raw, section, "longer") or 0,
            0,
            "has clients make passes that noise was not found for; must be 0",
        )
        yield (
            f"{section}.unsure",
            _of(raw, section, "unsure") or "alone",
            "alone",
            "has a client choose an expert by its train rows, which noise does not cover; must be 'alone'",
        )


def _methods(raw: Mapping[str, Any]) -> tuple[Any, ...]:
    baselines = raw.get("baselines")
    return (raw.get("method"), *(baselines if isinstance(baselines, list | tuple) else ()))


def _learns_numbers(task: Any) -> bool:
    return isinstance(task, str) and task in known_tasks() and task_facts(task).rows == "values"


def _of(raw: Mapping[str, Any], section: str, key: str) -> Any:
    group = raw.get(section)
    return group.get(key) if isinstance(group, Mapping) else None
