"""Reads and checks ``compare.json`` as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from pydantic import TypeAdapter

from fedlease.core.choices import Kind
from fedlease.errors import RunFolderError
from fedlease.reporting.formats import percent, points
from fedlease.storage.documents import Finite, checked
from fedlease.storage.verdict import Verdict
from fedlease.tasks.metric_words import of_metric
from fedlease.tasks.metrics import MetricWords

__all__ = ["FEWEST_SEEDS", "MANY", "Comparison", "Coverage", "Failure", "Gap", "Score", "Variant", "read_comparison"]

FEWEST_SEEDS = 3
"""Fewest seeds for which conclusions are drawn; with fewer, intervals are only shown."""

MANY = 8
"""Most variants for which each has its own colour; more are grouped by kind."""


@dataclass(frozen=True)
class Score:
    """A mean over seeds, in [0, 1]; ``deviation`` is None for one seed, ``values`` has one per seed."""

    mean: Finite
    deviation: Finite | None
    values: tuple[Finite, ...]

    def __str__(self) -> str:
        """``75.0 ± 7.1``, in %."""
        return percent(self.mean) + ("" if self.deviation is None else f" ± {100 * self.deviation:.1f}")


@dataclass(frozen=True)
class Gap:
    """How much the first variant is above another, in [-1, 1], with its 95 % interval.

    ``clients`` has, per seed, the number of clients that both scored.
    """

    mean: Finite
    low: Finite
    high: Finite
    clients: tuple[int, ...]

    def __str__(self) -> str:
        """``+25.0 (+20.0 to +30.0)``, in points."""
        return f"{points(self.mean)} ({points(self.low)} to {points(self.high)})"

    @property
    def holds_zero(self) -> bool:
        """Whether the interval contains zero, so that either of the two may be better."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Coverage:
    """The number of a seed's clients that its means include, and why each of the others is left out."""

    seed: int
    averaged: int
    clients: int
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class Failure:
    """The reason why a variant is not compared; ``seed`` is None if it failed before any run."""

    method: str
    seed: int | None
    reason: str
    kind: str = ""

    @property
    def when(self) -> str:
        """The run that failed, in words."""
        return "before any run" if self.seed is None else f"seed {self.seed}"


@dataclass(frozen=True)
class Point:
    """The mean over clients after a number of passes; None if nobody was scored."""

    passes: int
    mean: Finite | None


@dataclass(frozen=True)
class Variant:
    """A variant in the comparison: a method, or one with settings of its own.

    Attributes:
        name: name of the variant.
        method: name of its method.
        changes: its own settings, by dotted names.
        mean: mean score over clients.
        worst_client: lowest score of a client.
        per_task: task -> mean score over its clients.
        num_experts: number of experts per seed; None without an allocation.
        bytes_up: bytes of adapters that clients sent, per seed.
        bytes_down: bytes of adapters that clients received, per seed.
        seconds: seconds per seed.
        trainable_parameters: number of trainable parameters of one client.
        points: per seed, the mean over clients by passes.
        kind: what is shared, see :data:`fedlease.core.choices.Kind`; empty if the file has none.
    """

    name: str
    method: str
    changes: Mapping[str, Any]
    mean: Score
    worst_client: Score
    per_task: Mapping[str, Score]
    num_experts: tuple[int | None, ...]
    bytes_up: tuple[Finite, ...]
    bytes_down: tuple[Finite, ...]
    seconds: tuple[Finite, ...]
    trainable_parameters: int
    points: tuple[tuple[Point, ...], ...]
    kind: str = ""

    @property
    def curves(self) -> tuple[dict[int, float], ...]:
        """Per seed, passes -> mean over clients, if some client was scored."""
        return tuple({p.passes: p.mean for p in seed if p.mean is not None} for seed in self.points)

    @property
    def rate(self) -> float | None:
        """The learning rate among its own settings."""
        rate = self.changes.get("train.lr")
        return rate if isinstance(rate, int | float) else None


@dataclass(frozen=True)
class Comparison:
    """A comparison.

    Attributes:
        metric: key of the metric.
        head: policy for heads.
        passes: number of passes over each client's rows, the same for all variants.
        seeds: seeds of the runs.
        majority_mean: mean score of the majority baseline.
        variants: the first is compared with each of the others.
        differences: other variant -> how much the first is above it.
        coverage: one entry per seed.
        learning_rates: variant -> learning rate -> score on validation rows of the first seed, None if training failed;
            empty if no rate was chosen.
        verdict: what each client gains over ``local`` with the first variant; None in comparisons without ``local``.
        failed: name of a variant that is not compared -> the failure.
    """

    metric: str
    head: str
    passes: int
    seeds: tuple[int, ...]
    majority_mean: Finite
    variants: tuple[Variant, ...]
    differences: Mapping[str, Gap]
    coverage: tuple[Coverage, ...]
    learning_rates: Mapping[str, Mapping[float, Finite | None]] = field(default_factory=dict)
    learnt: str = ""
    verdict: Verdict | None = None
    failed: Mapping[str, Failure] = field(default_factory=dict)

    @property
    def many(self) -> bool:
        """Whether there are so many variants that they are grouped by kind."""
        return len(self.variants) > MANY

    @property
    def kinds(self) -> tuple[str, ...]:
        """The distinct kinds of the variants, in order."""
        return tuple(dict.fromkeys(v.kind for v in self.variants))

    @property
    def first(self) -> Variant:
        """The variant that is compared with each of the others."""
        return self.variants[0]

    @property
    def others(self) -> tuple[Variant, ...]:
        """All but the first."""
        return self.variants[1:]

    @property
    def enough_seeds(self) -> bool:
        """Whether there are enough seeds to conclude that two variants differ or cannot be told apart."""
        return len(self.seeds) >= FEWEST_SEEDS

    @property
    def words(self) -> MetricWords:
        """The words for the metric and for related values."""
        return of_metric(self.metric, self.learnt)

    @property
    def rounds_scored(self) -> bool:
        """Whether any variant has a score before its end."""
        return any(len(curve) > 1 for variant in self.variants for curve in variant.curves)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the order of the file."""
        return tuple(self.first.per_task)


def read_comparison(content: Mapping[str, Any]) -> Comparison:
    """Reads the content of ``compare.json``.

    Raises:
        RunFolderError: something is missing or invalid.
    """
    rows, first = content.get("variants"), content.get("first")
    if not isinstance(rows, dict) or not isinstance(first, str) or first not in rows:
        raise RunFolderError(f"compare.json is damaged: variants must be an object that holds the first, {first!r}")
    if wrong := [name for name, row in rows.items() if not isinstance(row, dict)]:
        raise RunFolderError(f"compare.json is damaged: variants.{wrong[0]} must be an object")
    order = [{**rows[name], "name": name} for name in (first, *(name for name in rows if name != first))]
    read: Comparison = checked({**content, "variants": order}, TypeAdapter(Comparison), "compare.json")
    if read.many:
        read = replace(read, variants=_grouped(read))
    if missing := [variant.name for variant in read.others if variant.name not in read.differences]:
        raise RunFolderError(f"compare.json is damaged: differences has no {missing[0]!r}")
    for v in read.variants:
        lists = (v.mean.values, v.num_experts, v.bytes_up, v.bytes_down, v.seconds, v.points)
        if not read.seeds or any(len(values) != len(read.seeds) for values in lists):
            raise RunFolderError(
                f"compare.json is damaged: {v.name} needs one value per seed, {len(read.seeds)} of each kind"
            )
        if v.per_task.keys() != read.first.per_task.keys():
            raise RunFolderError(f"compare.json is damaged: {v.name} has other tasks than {first}")
    return read


def _grouped(c: Comparison) -> tuple[Variant, ...]:
    """The first variant, then the others of its kind, then those of other kinds; by falling mean within a kind."""
    kinds = [c.first.kind, *get_args(Kind)]
    others = sorted(
        c.others, key=lambda v: (kinds.index(v.kind) if v.kind in kinds else len(kinds), -v.mean.mean, v.name)
    )
    return (c.first, *others)
