"""Figures of a comparison with more variants than colours, and parts that other figures share."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from fedlease.reporting.comparison.data import Comparison
from fedlease.reporting.comparison.looks import colour_of, hover, legend_of, line_of, lines_of, named_axis
from fedlease.reporting.drawing import (
    PALETTE,
    SYMBOLS,
    Figure,
    axis,
    base_layout,
    in_percent,
    label,
    level_line,
    passes_axis,
)
from fedlease.reporting.formats import percent

__all__ = ["curves_figure", "highest", "many_by_task", "many_curves", "task_rows"]


def curves_figure(
    c: Comparison,
    text: str,
    traces: Sequence[dict[str, Any]],
    rows: Sequence[tuple[str, ...]],
    height: int,
) -> Figure:
    """The figure of mean scores by passes, from its traces, its text and the rows of its table."""
    last = max((x for m in c.variants for curve in m.curves for x in curve), default=0)
    layout = base_layout(
        xaxis=passes_axis(last, scored=c.rounds_scored),
        yaxis=axis(f"mean {label(c.words.name)}, %"),
        **level_line(c.majority_mean, c.words.majority),
    )
    title = "Mean over clients by passes" if c.rounds_scored else "Mean over clients"
    header = ("method", "passes", "mean, %", *(f"seed {seed}" for seed in c.seeds))
    return Figure("curves", title, text, tuple(traces), layout, height, header, tuple(rows))


def highest(c: Comparison) -> list[str]:
    """One sentence per task that names the variant with the highest score."""
    text = []
    for task in c.tasks:
        best = max(c.variants, key=lambda m: m.per_task[task].mean)
        text.append(f"{task}: {best.name} is highest, {best.per_task[task]} %.")
    return text


def many_curves(c: Comparison) -> Figure:
    """Draws a line per method in the colour of its kind: its mean over seeds where all have a value."""
    traces, rows = [], []
    for m in c.variants:
        places = sorted({x for curve in m.curves for x in curve})
        mean = {x: fmean(curve[x] for curve in m.curves) for x in places if all(x in curve for curve in m.curves)}
        traces.append(
            {"type": "scatter", "mode": "lines" if c.rounds_scored else "markers", **legend_of(c, m),
             "x": list(mean) if c.rounds_scored else [label(m.name, 24)] * len(mean),
             "y": [in_percent(y) for y in mean.values()], "line": line_of(c, m), "cliponaxis": False,
             "marker": {"color": colour_of(c, m), "size": 9}, "hoverinfo": "text",
             "hovertext": [hover(m, f"passes {x}: {percent(y)} %") for x, y in mean.items()]},
        )  # fmt: skip
        rows += [(m.name, str(x), percent(mean.get(x)), *(percent(k.get(x)) for k in m.curves)) for x in places]
    ends = sorted(c.variants, key=lambda m: -m.mean.mean)
    low, high = (f"{percent(m.mean.mean)} % ({m.name})" for m in (ends[-1], ends[0]))
    text = f"They end between {low} and {high}."
    if c.rounds_scored:
        text += f" Means over seeds, in the colour of their kind; {c.first.name} is thick. Hovering names a line."
    return curves_figure(c, text, traces, rows, 520)


def many_by_task(c: Comparison) -> Figure:
    """Draws a row per method, by kind, with a mark for each task and one for the mean over clients."""
    places, names = lines_of(c, c.variants)
    tasks = (*c.tasks, "mean over clients")
    traces = []
    for number, task in enumerate(tasks):
        mean = number == len(c.tasks)
        scores = [m.mean if mean else m.per_task[task] for m in c.variants]
        colour, symbol = (PALETTE[7], "line-ns") if mean else (PALETTE[number % 7], SYMBOLS[number % len(SYMBOLS)])
        line = {"width": 3 if mean else 0, "color": colour}
        texts = [hover(m, f"{label(task)}: {score} %") for m, score in zip(c.variants, scores, strict=True)]
        traces.append(
            {"type": "scatter", "mode": "markers", "name": label(task, 30), "cliponaxis": False,
             "marker": {"color": colour, "symbol": symbol, "size": 16 if mean else 8, "line": line},
             "x": [in_percent(score.mean) for score in scores], "y": [places[m.name] for m in c.variants],
             "hoverinfo": "text", "hovertext": texts},
        )  # fmt: skip
    text = highest(c)
    layout = base_layout(xaxis=axis(f"{label(c.words.name)}, %"), yaxis=named_axis(names))
    height = 110 + 24 * len(names)
    return Figure(
        "tasks", "Scores by task", " ".join(text), tuple(traces), layout, height, ("method", *tasks), task_rows(c)
    )


def task_rows(c: Comparison) -> tuple[tuple[str, ...], ...]:
    """The scores of every variant by task, and its mean, as text."""
    return tuple((m.name, *(str(score) for score in (*m.per_task.values(), m.mean))) for m in c.variants)
