"""The tables of a comparison."""

import json
from collections.abc import Iterable
from statistics import fmean

from fedlease.reporting.comparison.data import Comparison, Score
from fedlease.reporting.comparison.words import points, spread
from fedlease.reporting.run.tables import Cell, Table
from fedlease.reporting.tables import human_bytes, human_seconds, percent

__all__ = ["cost_table", "rate_table", "score_table", "settings_table"]


def score_table(c: Comparison) -> Table:
    """Every method: its mean, how much the first is above it, its worst client, its score by task."""
    tops = {task: max(m.tasks[task].mean for m in c.methods) for task in c.tasks}
    top, worst = max(m.mean.mean for m in c.methods), max(m.worst.mean for m in c.methods)
    rows = []
    for m in c.methods:
        gap = c.gaps.get(m.name)
        above = (
            Cell("") if gap is None else Cell(f"{points(gap.mean)} ({points(gap.low)} to {points(gap.high)})", gap.mean)
        )
        rows.append(
            (
                Cell(m.name),
                _score(m.mean, top),
                *([above] if c.others else []),
                _score(m.worst, worst),
                *(_score(m.tasks[task], tops[task]) for task in c.tasks),
            )
        )
    differences = [f"{c.first.name} above it by (95 % interval)"] if c.others else []
    header = ("method", "mean", *differences, "worst client", *c.tasks)
    over = f", mean ± standard deviation over {len(c.seeds)} seeds" if len(c.seeds) > 1 else f", seed {c.seeds[0]}"
    return Table(f"{c.words.name} in % by method{over}", header, tuple(rows))


def cost_table(c: Comparison) -> Table:
    """Experts, bytes, trained parameters and time of every method."""
    rows = []
    for m in c.methods:
        known = [count for count in m.experts if count is not None]
        experts = ", ".join("-" if count is None else str(count) for count in m.experts) if known else "-"
        sizes = (Cell(human_bytes(fmean(values)), fmean(values)) for values in (m.bytes_up, m.bytes_down))
        rows.append(
            (
                Cell(m.name),
                Cell(experts, fmean(known) if known else None),
                *sizes,
                Cell(f"{m.trainable:,}", m.trainable),
                Cell(human_seconds(fmean(m.seconds)), fmean(m.seconds)),
            )
        )
    over = f", means over {len(c.seeds)} seeds; experts of each seed" if len(c.seeds) > 1 else f", seed {c.seeds[0]}"
    header = ("method", "experts", "up", "down", "trained parameters", "time")
    return Table(f"Cost by method{over}", header, tuple(rows))


def rate_table(c: Comparison) -> Table | None:
    """The score of every learning rate tried, the one chosen marked; None where none was chosen."""
    if not c.rates:
        return None
    tried = sorted({rate for scores in c.rates.values() for rate in scores})
    rows = []
    for m in c.methods:
        if m.name in c.rates:
            chosen, scores = m.rate, c.rates[m.name]
            cells = (Cell(percent(scores.get(rate)), scores.get(rate), best=rate == chosen) for rate in tried)
            rows.append((Cell(m.name), Cell("-" if chosen is None else f"{chosen:g}", chosen), *cells))
    caption = f"{c.words.name} in % on validation rows of seed {c.seeds[0]}, by learning rate"
    return Table(caption, ("method", "chosen", *(f"{rate:g}" for rate in tried)), tuple(rows))


def settings_table(c: Comparison) -> Table | None:
    """Settings of each one's own; None where all are methods as they come."""
    hidden = {"train.lr"} if c.rates else set()
    if not any(m.changes.keys() - hidden or m.name != m.method for m in c.methods):
        return None
    rows = tuple(
        (Cell(m.name), Cell(m.method), Cell(_settings((k, v) for k, v in m.changes.items() if k not in hidden)))
        for m in c.methods
    )
    return Table("What each stands for", ("name", "method", "settings of its own"), rows)


def _settings(changes: Iterable[tuple[str, object]]) -> str:
    return ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in sorted(changes)) or "none"


def _score(score: Score, best: float) -> Cell:
    return Cell(spread(score), score.mean, best=score.mean >= best - 1e-9)
