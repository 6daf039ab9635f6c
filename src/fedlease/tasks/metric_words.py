"""Names of metrics for people, by their keys in ``summary.json``."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedlease.config.tables import known_tasks
from fedlease.tasks.metrics import MetricWords
from fedlease.tasks.registry import task_class, task_classes

__all__ = ["further_means", "is_further_mean", "of_metric", "short_name"]


def of_metric(metric: str, task: str = "") -> MetricWords:
    """The words for a headline metric; an unknown one is called by its key.

    Args:
        metric: key.
        task: name of its task, since metrics of several tasks may share a key and differ in other words.
    """
    first = [task_class(task)] if task in known_tasks() else []
    found = (learnt.headlines[metric] for learnt in (*first, *task_classes()) if metric in learnt.headlines)
    return next(found, MetricWords(metric))


def further_means(summaries: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[float | None]]]:
    """Further metrics of which at least one summary has a mean: key, name, and the value of each summary.

    Args:
        summaries: contents of ``summary.json``, one per method.
    """
    words = [words for task in task_classes() for words in task.headlines.values()]
    names = {key: name for own in words for key, name in own.further.items()}
    there = {key for summary in summaries for key, value in summary.items() if is_further_mean(key, value)}
    order = [*(key for key in names if key in there), *sorted(there - names.keys())]
    return [
        (
            key,
            names.get(key, f"mean {key.removeprefix('mean_')}"),
            [s[key] if is_further_mean(key, s.get(key)) else None for s in summaries],
        )
        for key in order
    ]


def short_name(name: str) -> str:
    """The name of one client's value in %, from that of the mean: ``mean MCC, x 100`` -> ``MCC``."""
    return name.removeprefix("mean ").removesuffix(", x 100")


def is_further_mean(key: str, value: Any) -> bool:
    """Whether an entry of ``summary.json`` is the mean of a metric other than the headline's."""
    return key.startswith("mean_") and isinstance(value, int | float)
