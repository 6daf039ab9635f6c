"""``compare.json`` as frozen values, read and checked as a whole."""

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
"""Seeds from which on conclusions are drawn; with fewer, intervals are shown and nothing is concluded from them."""

MANY = 8
"""Variants that have a colour each; more are grouped by kind."""


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
        """Whether the interval leaves open which of the two is better."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Coverage:
    """How many of a seed's clients its means are taken over, and why each of the others is left out."""

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
        name: of its row.
        method: which it is.
        changes: dotted settings of its own.
        mean: over clients.
        worst_client: the lowest score of a client.
        per_task: task -> mean over its clients.
        num_experts: one number per seed; None without an allocation.
        bytes_up: adapters, one number per seed.
        bytes_down: adapters, one number per seed.
        seconds: one number per seed.
        trainable_parameters: of one client.
        points: per seed the mean over clients by passes.
        kind: what is shared, see :data:`fedlease.core.choices.Kind`; empty where the file has none.
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
        """Per seed, the mean over clients by passes made, where somebody was scored."""
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
        metric: its key.
        head: policy for heads.
        passes: over each client's rows, the same for all variants.
        seeds: of the runs.
        majority_mean: mean score of the majority baseline.
        variants: the first is compared with each of the others.
        differences: how much the first is above each of the others.
        coverage: one entry per seed.
        learning_rates: variant -> learning rate -> score on validation rows of the first seed, None where training
            failed; {} where none was chosen.
        verdict: what the first variant gains every client over ``local``; None in comparisons without.
        failed: name of a variant that is not compared -> why.
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
        """Whether variants are grouped by kind, since there are many."""
        return len(self.variants) > MANY

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the variants, in their order."""
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
        """Whether there are enough seeds to conclude that two variants differ, or cannot be told apart."""
        return len(self.seeds) >= FEWEST_SEEDS

    @property
    def words(self) -> MetricWords:
        """How the metric and what stands beside it are called."""
        return of_metric(self.metric, self.learnt)

    @property
    def rounds_scored(self) -> bool:
        """Whether any variant has a score before its end."""
        return any(len(curve) > 1 for variant in self.variants for curve in variant.curves)

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(self.first.per_task)


def read_comparison(content: Mapping[str, Any]) -> Comparison:
    """The content of ``compare.json`` as values.

    Raises:
        RunFolderError: something is missing or not what it should be.
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
    """The first variant; then the others of its kind, and kind by kind the rest, each from the highest mean down."""
    kinds = [c.first.kind, *get_args(Kind)]
    others = sorted(
        c.others, key=lambda v: (kinds.index(v.kind) if v.kind in kinds else len(kinds), -v.mean.mean, v.name)
    )
    return (c.first, *others)
