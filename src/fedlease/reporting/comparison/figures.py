"""Figures of a comparison: means over passes, scores by task, paired differences."""

from statistics import fmean
from typing import Any

from fedlease.reporting.comparison.data import Comparison
from fedlease.reporting.comparison.figures_many import (
    curves_figure,
    highest,
    many_by_task,
    many_curves,
    task_rows,
)
from fedlease.reporting.comparison.looks import (
    around,
    bars,
    colour_of,
    dots,
    hover,
    lines_of,
    named_axis,
)
from fedlease.reporting.drawing import (
    PALETTE,
    Figure,
    axis,
    base_layout,
    in_percent,
    label,
    line_trace,
)
from fedlease.reporting.formats import percent, points

__all__ = ["comparison_figures"]

FAINT_LINE = {"color": "rgba(127,127,127,0.35)", "width": 1}


def comparison_figures(c: Comparison) -> list[Figure]:
    """The figures; that of differences only if there are other variants."""
    return [_curves(c), _by_task(c), *([_differences(c)] if c.others else [])]


def _curves(c: Comparison) -> Figure:
    """Draws a thick line per method, its mean over seeds where all have a value, and a thin line per seed."""
    if c.many:
        return many_curves(c)
    thin: list[dict[str, Any]] = []
    thick: list[dict[str, Any]] = []
    text, rows = [], []
    for number, m in enumerate(c.variants):
        places = sorted({x for curve in m.curves for x in curve})
        mean = {x: fmean(curve[x] for curve in m.curves) for x in places if all(x in curve for curve in m.curves)}
        group = f"method {number}"
        seeds = {x: ", ".join(percent(curve.get(x)) for curve in m.curves) for x in places}
        texts = [f"{percent(y)} %" + (f", seeds {seeds[x]}" if len(c.seeds) > 1 else "") for x, y in mean.items()]
        trace = line_trace(number, m.name, list(mean), [in_percent(y) for y in mean.values()], texts, "passes")
        trace["line"]["width"] = 3 if m is c.first else 1.8
        name = trace["name"]
        trace["x"] = trace["x"] if c.rounds_scored else [name] * len(mean)
        thick.append({**trace, "legendgroup": group})
        if len(c.seeds) > 1:
            for curve in m.curves:
                y = [in_percent(curve[x]) for x in sorted(curve)]
                x: list[Any] = sorted(curve) if c.rounds_scored else [name] * len(y)
                thin.append(
                    {"type": "scatter", "mode": "lines" if c.rounds_scored else "markers", "x": x, "y": y,
                     "hoverinfo": "skip", "marker": {**trace["marker"], "size": 5},
                     "showlegend": False, "legendgroup": group, "opacity": 0.35,
                     "line": {**trace["line"], "width": 1, "dash": "solid"}},
                )  # fmt: skip
        if len(mean) > 1:
            text.append(f"{m.name} goes from {percent(next(iter(mean.values())))} to {percent(mean[max(mean)])} %.")
        elif mean:
            text.append(f"{m.name} ends at {percent(mean[max(mean)])} %.")
        rows += [(m.name, str(x), percent(mean.get(x)), *(percent(k.get(x)) for k in m.curves)) for x in places]
    if not c.rounds_scored:
        text.append("Rounds were not scored: these are the final scores.")
    if len(c.seeds) > 1:
        kinds = ("Thick lines", "thin ones") if c.rounds_scored else ("Large marks", "small ones")
        text.append(f"{kinds[0]} are means over seeds, {kinds[1]} the seeds.")
    return curves_figure(c, " ".join(text), (*thin, *thick), rows, 420)


def _by_task(c: Comparison) -> Figure:
    """Draws a dot per task and method, with standard deviations as bars; tasks are rows of the figure."""
    if c.many:
        return many_by_task(c)
    step = 0.8 / len(c.variants)
    names = (*c.tasks, "mean over clients")
    traces = []
    for number, m in enumerate(c.variants):
        scores = [*m.per_task.values(), m.mean]
        shift = (number - (len(c.variants) - 1) / 2) * step
        texts = [hover(m, f"{label(task)}: {score} %") for task, score in zip(names, scores, strict=True)]
        traces.append(
            {**dots(c, m, texts), "x": [in_percent(score.mean) for score in scores],
             "y": [round(place + shift, 3) for place in range(len(scores))], **bars("x", scores, colour_of(c, m))},
        )  # fmt: skip
    between = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": place + 0.5, "y1": place + 0.5, "line": FAINT_LINE}
        for place in range(len(names) - 1)
    ]
    layout = base_layout(
        xaxis=axis(f"{label(c.words.name)}, %"),
        yaxis=named_axis([label(name, 24) for name in names]),
        shapes=between,
    )
    text = highest(c)
    text.append("Bars are standard deviations over seeds." if len(c.seeds) > 1 else "One seed, so no spread is drawn.")
    rows = task_rows(c)
    height = 100 + len(names) * max(18 * len(c.variants), 48)
    return Figure("tasks", "Scores by task", " ".join(text), tuple(traces), layout, height, ("method", *names), rows)


def _differences(c: Comparison) -> Figure:
    """Draws a forest plot: a dot and its interval per method; with enough seeds, filled if it excludes zero."""
    traces = []
    places, names = lines_of(c, c.others)
    kinds = ((False, "interval without zero"), (True, "interval with zero"))
    for number, (holds, name) in enumerate(kinds if c.enough_seeds else ((None, "95 % interval"),)):
        found = [
            (places[m.name], m, c.differences[m.name])
            for m in c.others
            if holds is None or c.differences[m.name].holds_zero is holds
        ]
        if not found:
            continue
        texts = [hover(m, f"{points(gap.mean)} points, {points(gap.low)} to {points(gap.high)}") for _, m, gap in found]
        colour = PALETTE[number]
        bars = {
            "type": "data", "symmetric": False, "array": [in_percent(gap.high - gap.mean) for _, _, gap in found],
            "arrayminus": [in_percent(gap.mean - gap.low) for _, _, gap in found], "thickness": 2, "width": 6,
            "color": colour,
        }  # fmt: skip
        traces.append(
            {"type": "scatter", "mode": "markers", "name": name, "x": [in_percent(gap.mean) for _, _, gap in found],
             "y": [place for place, _, _ in found], "error_x": bars, "hovertext": texts, "hoverinfo": "text",
             "marker": {"symbol": "circle-open" if holds else "circle", "size": 11, "color": colour,
                        "line": {"width": 2, "color": colour}}},
        )  # fmt: skip
    gaps = [(m, c.differences[m.name]) for m in c.others]
    ends = [100 * end for _, gap in gaps for end in (gap.low, gap.high)]
    zero = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1}
    layout = base_layout(
        xaxis=axis(f"points by which {label(c.first.name, 30)} is above", range=around(ends)),
        yaxis=named_axis(names),
        shapes=[{**zero, "line": {"color": PALETTE[7], "width": 2, "dash": "dash"}}],
        showlegend=True,
    )
    text = " ".join(
        f"{c.first.name} less {m.name}: {points(gap.mean)} points, {points(gap.low)} to {points(gap.high)}."
        for m, gap in (gaps if not c.many else [max(gaps, key=lambda pair: pair[0].mean.mean)])
    )
    rows = tuple(
        (m.name, points(gap.mean), points(gap.low), points(gap.high))
        + (("yes" if gap.holds_zero else "no",) if c.enough_seeds else ())
        for m, gap in gaps
    )
    header = ("method", f"{c.first.name} is above by", "from", "to", *(["holds zero"] if c.enough_seeds else []))
    title = f"Paired differences of {c.first.name} to each other, with 95 % intervals"
    return Figure(
        "differences", title, text, tuple(traces), layout, 130 + (24 if c.many else 42) * len(names), header, rows
    )
