"""The tables of a comparison."""

import json
from collections.abc import Sequence
from statistics import fmean

from fedlease.reporting.comparison.data import Comparison, Score
from fedlease.reporting.formats import human_bytes, human_seconds, percent
from fedlease.reporting.tables import Cell, Table, number

__all__ = ["above", "cost_table", "experts", "failed_table", "rate_table", "score_table", "settings_table"]


def score_table(c: Comparison) -> Table:
    """Tabulates variants: mean, gap to the first, worst client, score by task."""
    tops = {task: max(v.per_task[task].mean for v in c.variants) for task in c.tasks}
    top, worst = max(v.mean.mean for v in c.variants), max(v.worst_client.mean for v in c.variants)
    rows = tuple(
        (
            Cell(v.name),
            *([Cell(v.kind)] if c.many else []),
            _score(v.mean, top),
            *([above(c, v.name)] if c.others else []),
            _score(v.worst_client, worst),
            *(_score(v.per_task[task], tops[task]) for task in c.tasks),
        )
        for v in c.variants
    )
    differences = [f"{c.first.name} above it by (95 % interval)"] if c.others else []
    kind = ["kind"] if c.many else []
    header = ("method", *kind, "mean", *differences, "worst client", *c.tasks)
    over = f", mean ± standard deviation over {len(c.seeds)} seeds" if len(c.seeds) > 1 else f", seed {c.seeds[0]}"
    failed = tuple(
        (
            Cell(name),
            *([Cell(f.kind)] if c.many else []),
            Cell("failed"),
            *[Cell("-")] * (len(header) - 2 - c.many),
        )
        for name, f in c.failed.items()
    )
    return Table(f"{c.words.name} in % by method{over}", header, rows, failed)


def failed_table(c: Comparison) -> Table | None:
    """Tabulates failures with place and reason; None if there were none."""
    if not c.failed:
        return None
    rows = tuple((Cell(name), Cell(f.when), Cell(f.reason)) for name, f in c.failed.items())
    return Table("Failed, and not compared", ("method", "in", "reason"), rows)


def above(c: Comparison, name: str) -> Cell:
    """How much the first variant is above another, with the interval; empty for the first variant itself."""
    gap = c.differences.get(name) if name != c.first.name else None
    return Cell(str(gap), gap.mean) if gap else Cell("")


def cost_table(c: Comparison) -> Table:
    """Tabulates experts, bytes, trained parameters and time of every variant."""
    rows = tuple(
        (
            Cell(v.name),
            experts(v.num_experts),
            *(Cell(human_bytes(fmean(values)), fmean(values)) for values in (v.bytes_up, v.bytes_down)),
            number(v.trainable_parameters),
            Cell(human_seconds(fmean(v.seconds)), fmean(v.seconds)),
        )
        for v in c.variants
    )
    over = f", means over {len(c.seeds)} seeds; experts of each seed" if len(c.seeds) > 1 else f", seed {c.seeds[0]}"
    header = ("method", "experts", "up", "down", "trained parameters", "time")
    return Table(f"Cost by method{over}", header, rows)


def experts(counts: Sequence[int | None]) -> Cell:
    """The number of experts of each seed, sorted by their mean; a dash for a method without experts."""
    known = [count for count in counts if count is not None]
    shown = ", ".join("-" if count is None else str(count) for count in counts) if known else "-"
    return Cell(shown, fmean(known) if known else None)


def rate_table(c: Comparison) -> Table | None:
    """Tabulates the score of every learning rate tried, with the chosen one marked; None if none was chosen."""
    if not c.learning_rates:
        return None
    tried = sorted({rate for scores in c.learning_rates.values() for rate in scores})
    rows = []
    for v in c.variants:
        if v.name in c.learning_rates:
            chosen, scores = v.rate, c.learning_rates[v.name]
            cells = (Cell(percent(scores.get(rate)), scores.get(rate), best=rate == chosen) for rate in tried)
            rows.append((Cell(v.name), Cell("-" if chosen is None else f"{chosen:g}", chosen), *cells))
    caption = f"{c.words.name} in % on validation rows of seed {c.seeds[0]}, by learning rate"
    return Table(caption, ("method", "chosen", *(f"{rate:g}" for rate in tried)), tuple(rows))


def settings_table(c: Comparison) -> Table | None:
    """Tabulates the settings that distinguish variants; None if none has settings of its own."""
    hidden = {"train.lr"} if c.learning_rates else set()
    if not any(v.changes.keys() - hidden or v.name != v.method for v in c.variants):
        return None
    rows = []
    for v in c.variants:
        own = {key: json.dumps(value, ensure_ascii=False) for key, value in v.changes.items() if key not in hidden}
        settings = ", ".join(f"{key} = {value}" for key, value in sorted(own.items()))
        rows.append((Cell(v.name), Cell(v.method), Cell(settings or "none")))
    return Table("What each stands for", ("name", "method", "settings of its own"), tuple(rows))


def _score(score: Score, best: float) -> Cell:
    return Cell(str(score), score.mean, best=score.mean >= best - 1e-9)
