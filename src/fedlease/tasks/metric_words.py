"""What scores are called wherever people read them; in files a metric keeps its key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MetricWords", "further_means", "is_further_mean", "of_metric"]


@dataclass(frozen=True)
class MetricWords:
    """How a headline metric and what stands beside it are called.

    Attributes:
        name: of the metric.
        naive: of the score that needs no model.
        naively: what that one always does.
        heads: whether clients have a classifier head; a language model answers with what it has.
        look: what else tells a model that is better than the naive score from one that is not.
    """

    name: str
    naive: str
    naively: str
    heads: bool
    look: str


METRICS = {
    "accuracy": MetricWords(
        "accuracy",
        "majority class",
        "naming the most frequent class",
        heads=True,
        look="look at macro F1, which frequent classes do not help",
    ),
    "rouge1": MetricWords(
        "ROUGE-1",
        "most frequent answer",
        "giving the most frequent answer",
        heads=False,
        look="read some of the answers",
    ),
}

FURTHER = {
    "mean_macro_f1": "mean macro F1",
    "mean_mcc": "mean MCC, x 100",
    "mean_rougeL": "mean ROUGE-L",
    "mean_exact_match": "mean exact match",
    "mean_answer_accuracy": "mean accuracy of short answers",
}
"""Keys of ``summary.json`` with their names, in the order they are shown."""


def of_metric(metric: str) -> MetricWords:
    """The words for a metric by its key; one that is not known is called by its key."""
    unknown = MetricWords(
        metric, "most frequent answer", "giving the most frequent answer", heads=True, look="look at single answers"
    )
    return METRICS.get(metric, unknown)


def further_means(summaries: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[float | None]]]:
    """Every further metric that at least one summary has a mean of: its key and name, and the value of each summary.

    Args:
        summaries: contents of ``summary.json``, one per method.
    """
    there = {key for summary in summaries for key, value in summary.items() if is_further_mean(key, value)}
    order = [*(key for key in FURTHER if key in there), *sorted(there - FURTHER.keys())]
    return [
        (
            key,
            FURTHER.get(key, f"mean {key.removeprefix('mean_')}"),
            [s[key] if is_further_mean(key, s.get(key)) else None for s in summaries],
        )
        for key in order
    ]


def is_further_mean(key: str, value: Any) -> bool:
    """Whether an entry of ``summary.json`` is the mean of a metric other than the headline's."""
    return key.startswith("mean_") and isinstance(value, int | float)
