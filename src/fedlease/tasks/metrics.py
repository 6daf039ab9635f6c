"""Ranges of metrics, and their names for people."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedlease.core.confusion import Cells
from fedlease.core.wording import enumerated
from fedlease.data.federation import Row

__all__ = ["LOSS", "MOST", "Graded", "Metric", "MetricWords"]


@dataclass(frozen=True)
class Graded:
    """The scores of predictions for a file that holds the true answers.

    Attributes:
        metrics: name -> value.
        rows: number of scored rows.
        unknown: labels in the file that the client does not know.
        cells: as ``confusion`` of :class:`fedlease.tasks.base.Measured`, over the client's labels and then the unknown
            ones.
        answered: rows with a true answer, for tasks that also report their loss.
    """

    metrics: Mapping[str, float]
    rows: int
    unknown: tuple[str, ...] = ()
    cells: Cells = ()
    answered: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Metric:
    """The range of a metric.

    Attributes:
        lowest: smallest value.
        highest: largest value.
        averaged: whether the values of clients have a common scale, so that their mean is meaningful.
    """

    lowest: float = 0.0
    highest: float = 1.0
    averaged: bool = True


MOST = 1e100
"""Bound on metrics that have none of their own; sums of larger values could overflow."""
LOSS = Metric(highest=MOST, averaged=False)
"""The range of losses, which have no common scale across clients."""


@dataclass(frozen=True)
class MetricWords:
    """Words for a headline metric and the other metrics of its task; files use keys.

    Attributes:
        name: of the metric.
        majority: name of the majority baseline, which needs no model.
        majority_rule: how that baseline predicts.
        heads: whether clients have a classifier head; language models have none.
        look: advice on how to tell whether a model is better than the majority baseline.
        further: key in ``summary.json`` -> name, for the means of the other metrics, in the order of tables.
        own_units: key -> name, for metrics in the unit of a client's values, which are only shown for each client.
        of_rows: whether the metric is a mean over rows of numbers in 0 .. 1.
    """

    name: str
    majority: str = "most frequent answer"
    majority_rule: str = "giving the most frequent answer"
    heads: bool = True
    look: str = "look at single answers"
    further: Mapping[str, str] = field(default_factory=dict)
    own_units: Mapping[str, str] = field(default_factory=dict)
    of_rows: bool = True

    @property
    def units(self) -> str:
        """The end of a caption for a table with ``own_units``; empty without them."""
        if not self.own_units:
            return ""
        return f"; {enumerated([*self.own_units.values()])} in the unit of the client's values"
