"""Ranges of metrics, and words about them for people."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedlease.core.confusion import Cells
from fedlease.core.wording import enumerated
from fedlease.data.federation import Row

__all__ = ["LOSS", "MOST", "Graded", "Metric", "MetricWords"]


@dataclass(frozen=True)
class Graded:
    """How predictions for a file do, where it has what is true.

    Attributes:
        metrics: name -> value.
        rows: that were compared.
        unknown: labels in the file that the client does not know.
        cells: as ``confusion`` of :class:`fedlease.tasks.base.Measured`, over the client's labels and then the unknown
            ones.
        answered: rows with what is true, where the loss on them says more.
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
        lowest: no value is below.
        highest: no value is above.
        averaged: whether values of several clients have a common scale, so that a mean over clients means something.
    """

    lowest: float = 0.0
    highest: float = 1.0
    averaged: bool = True


MOST = 1e100
"""The size of a metric without a bound of its own; more would be no number that a sum can hold."""
LOSS = Metric(highest=MOST, averaged=False)
"""Losses of unlike clients have no common scale."""


@dataclass(frozen=True)
class MetricWords:
    """Words for a headline metric and the metrics beside it; in files a metric goes by its key.

    Attributes:
        majority: name of the majority baseline, which needs no model.
        majority_rule: what that baseline always does.
        heads: whether clients have a classifier head; a language model answers with what it has.
        look: what else distinguishes a model that is better than the majority baseline.
        further: key in ``summary.json`` -> name, of the means of the other metrics, in the order they are shown.
        own_units: key -> name, of metrics in the unit of the client's own values, which are shown by client alone.
        of_rows: whether it is a mean of numbers in 0 .. 1, one per row.
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
        """The end of the caption of a table with ``own_units``; empty without any."""
        if not self.own_units:
            return ""
        return f"; {enumerated([*self.own_units.values()])} in the unit of the client's values"
