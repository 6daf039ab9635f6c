"""``compare.json`` as frozen values, which the page of a comparison is drawn from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlease.errors import RunFolderError
from fedlease.tasks.metric_words import MetricWords, of_metric

__all__ = ["FEWEST_SEEDS", "Comparison", "Gap", "MethodRow", "Score", "read_comparison"]

FEWEST_SEEDS = 3
"""With fewer, intervals are shown and nothing is said of whether they hold zero."""


@dataclass(frozen=True)
class Score:
    """Over seeds, in [0, 1]; ``deviation`` is None for one seed, ``values`` has one per seed."""

    mean: float
    deviation: float | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class Gap:
    """How much the first method is above another, in [-1, 1], with its 95 % interval; and, per seed, over how many
    clients, those that both scored."""

    mean: float
    low: float
    high: float
    clients: tuple[int, ...]

    @property
    def holds_zero(self) -> bool:
        """Whether the two cannot be told apart."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class MethodRow:
    """What is compared: a method, or one with settings of its own.

    Attributes:
        name: of its row.
        method: which it is.
        changes: dotted settings of its own.
        rate: the learning rate among these, or None where it has that of all.
        mean: over clients.
        worst: the client with the lowest score.
        tasks: by task.
        experts: one number per seed; None where it has no allocation.
        bytes_up: adapters, one number per seed.
        bytes_down: likewise.
        seconds: one number per seed.
        trainable: parameters of one client.
        curves: per seed the mean over clients by passes made, or by steps.
    """

    name: str
    method: str
    changes: Mapping[str, Any]
    rate: float | None
    mean: Score
    worst: Score
    tasks: Mapping[str, Score]
    experts: tuple[int | None, ...]
    bytes_up: tuple[float, ...]
    bytes_down: tuple[float, ...]
    seconds: tuple[float, ...]
    trainable: int
    curves: tuple[Mapping[int, float], ...]


@dataclass(frozen=True)
class Comparison:
    """A comparison.

    Attributes:
        metric: its key.
        head: policy for heads.
        passes: over each client's rows, the same for all methods.
        seeds: of the runs.
        majority: mean score of always naming the most frequent class, or giving the most frequent answer.
        coverage: per seed, over how many of how many clients means are and who is left out; none where the file does
            not say.
        methods: the first is the one that the others are held against.
        gaps: how much the first is above each other one.
        rates: method -> learning rate -> score on validation rows of the first seed, without
            those at which training failed; {} where none was chosen.
        by_passes: whether curves are by passes; else by steps, since the file does not say what a step holds.
    """

    metric: str
    head: str
    passes: int
    seeds: tuple[int, ...]
    majority: float
    coverage: tuple[Mapping[str, Any], ...]
    methods: tuple[MethodRow, ...]
    gaps: Mapping[str, Gap]
    rates: Mapping[str, Mapping[float, float]]
    by_passes: bool

    @property
    def first(self) -> MethodRow:
        """The one that the others are held against."""
        return self.methods[0]

    @property
    def others(self) -> tuple[MethodRow, ...]:
        """All but the first."""
        return self.methods[1:]

    @property
    def enough_seeds(self) -> bool:
        """Whether there are seeds enough to say that two methods differ, or cannot be told apart."""
        return len(self.seeds) >= FEWEST_SEEDS

    @property
    def words(self) -> MetricWords:
        """How the metric and what stands beside it are called."""
        return of_metric(self.metric)

    @property
    def rounds_scored(self) -> bool:
        """Whether any method has a score before its end."""
        return any(len(curve) > 1 for method in self.methods for curve in method.curves)

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(self.first.tasks)


def read_comparison(content: Mapping[str, Any]) -> Comparison:
    """The content of ``compare.json`` as values.

    Raises:
        RunFolderError: something is missing or not what it should be.
    """
    try:
        return _comparison(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(f"compare.json is damaged: {type(error).__name__} {error}") from error


def _comparison(content: Mapping[str, Any]) -> Comparison:
    rows: Mapping[str, Mapping[str, Any]] = content["variants"]
    first, seeds = str(content["first"]), tuple(int(seed) for seed in content["seeds"])
    order = [first, *(name for name in rows if name != first)]
    by_passes = all("points" in row for row in rows.values())
    methods = tuple(_method(name, rows[name], by_passes) for name in order)
    for method in methods:
        lists = (method.mean.values, method.experts, method.bytes_up, method.bytes_down, method.seconds, method.curves)
        if not seeds or any(len(values) != len(seeds) for values in lists):
            raise ValueError(f"{method.name} needs one value per seed, {len(seeds)} of each kind")
        if method.tasks.keys() != methods[0].tasks.keys():
            raise ValueError(f"{method.name} has other tasks than {first}")
    gaps: Mapping[str, Mapping[str, Any]] = content["differences"]
    rates: Mapping[str, Mapping[str, Any]] = content.get("learning_rates", {})
    return Comparison(
        metric=str(content["metric"]),
        head=str(content["head"]),
        passes=int(content["passes"]),
        seeds=seeds,
        majority=_number(content["majority_mean"]),
        coverage=tuple(_covered(entry) for entry in content.get("coverage", ())),
        methods=methods,
        gaps={
            name: Gap(_number(gap["mean"]), _number(gap["low"]), _number(gap["high"]), tuple(gap.get("clients", ())))
            for name, gap in ((name, gaps[name]) for name in order[1:])
        },
        rates={
            name: {_number(k): _number(v) for k, v in rates[name].items() if v is not None}
            for name in order
            if name in rates
        },
        by_passes=by_passes,
    )


def _covered(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: int(entry[key]) for key in ("seed", "averaged", "clients")},
        "left_out": {str(client): str(reason) for client, reason in entry["left_out"].items()},
    }


def _method(name: str, row: Mapping[str, Any], by_passes: bool) -> MethodRow:
    rate = row["changes"].get("train.lr")
    return MethodRow(
        name=name,
        method=str(row["method"]),
        changes=dict(row["changes"]),
        rate=None if rate is None else _number(rate),
        mean=_score(row["mean"]),
        worst=_score(row["worst_client"]),
        tasks={str(task): _score(value) for task, value in row["per_task"].items()},
        experts=tuple(None if count is None else int(count) for count in row["num_experts"]),
        bytes_up=tuple(map(_number, row["bytes_up"])),
        bytes_down=tuple(map(_number, row["bytes_down"])),
        seconds=tuple(map(_number, row["seconds"])),
        trainable=int(row["trainable_parameters"]),
        curves=tuple(map(_by_passes, row["points"]) if by_passes else map(_by_steps, row["curves"])),
    )


def _by_passes(points: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    return {int(point["passes"]): _number(point["mean"]) for point in points if point["mean"] is not None}


def _by_steps(curve: Sequence[float | None]) -> dict[int, float]:
    """A step scores what it receives: the first stands at 0 steps made."""
    return {step: _number(value) for step, value in enumerate(curve) if value is not None}


def _score(value: Mapping[str, Any]) -> Score:
    deviation = value["deviation"]
    return Score(
        _number(value["mean"]), None if deviation is None else _number(deviation), tuple(map(_number, value["values"]))
    )


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    return number
