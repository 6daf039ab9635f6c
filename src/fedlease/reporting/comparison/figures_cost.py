"""Figures of scores against costs: bytes that clients send, and seconds."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from fedlease.reporting.comparison.data import Comparison, Variant
from fedlease.reporting.comparison.looks import around, bars, colour_of, dots, hover
from fedlease.reporting.drawing import Figure, axis, base_layout, in_percent, label
from fedlease.reporting.formats import human_bytes, human_seconds

__all__ = ["cost_figures", "unbeaten"]


def cost_figures(c: Comparison) -> list[Figure]:
    """The figures of scores against bytes and against seconds."""
    seconds = {"title": "seconds of all clients and steps", "ticksuffix": " s"}
    sent = {"title": "adapter bytes sent up by all clients", "ticksuffix": "B", "tickformat": "~s"}
    up: Callable[[Variant], float] = lambda m: fmean(m.bytes_up)  # noqa: E731
    took: Callable[[Variant], float] = lambda m: fmean(m.seconds)  # noqa: E731
    down = ("down", lambda m: human_bytes(fmean(m.bytes_down)))
    return [
        _against(c, "bytes", "Score against bytes up", up, human_bytes, sent, " up", ("up", down)),
        _against(c, "seconds", "Score against time", took, human_seconds, seconds, "", ("time", None)),
    ]


def unbeaten(scores: Sequence[float], costs: Sequence[float]) -> list[int]:
    """Indices of the Pareto front: no other entry is at least as good in score and cost, and better in one of them."""
    pairs = list(zip(scores, costs, strict=True))
    return [
        place
        for place, (score, cost) in enumerate(pairs)
        if not any(s >= score and k <= cost and (s, k) != (score, cost) for s, k in pairs)
    ]


def _against(
    c: Comparison,
    name: str,
    title: str,
    cost: Callable[[Variant], float],
    shown: Callable[[float], str],
    scale: dict[str, Any],
    after: str,
    columns: tuple[str, tuple[str, Callable[[Variant], str]] | None],
) -> Figure:
    """Draws every variant at its cost and mean; if there are many, names only the first and the unbeaten ones."""
    costs, means = [cost(m) for m in c.variants], [m.mean.mean for m in c.variants]
    best = [c.variants[place] for place in unbeaten(means, costs)]
    first, more = columns
    traces, text, rows, notes = [], [], [], []
    for m, x in zip(c.variants, costs, strict=True):
        result = f"{m.mean} % for {shown(x)}{after}"
        y = in_percent(m.mean.mean)
        traces.append(
            {**dots(c, m, [hover(m, result)], 11), "x": [x], "y": [y], **bars("y", [m.mean], colour_of(c, m))}
        )
        if not c.many or m in best:
            text.append(f"{m.name}: {result}.")
        if c.many and (m in best or m is c.first):
            notes.append(
                {"x": x, "y": y, "text": label(m.name, 20), "showarrow": False, "yshift": -14 if m is c.first else 14}
            )
        rows.append((m.name, shown(x), *([more[1](m)] if more else []), str(m.mean)))
    if c.many:
        text = ["Nobody has a higher score for less than the methods named:", *text]
    layout = base_layout(
        xaxis=axis(scale["title"], range=around(costs), **{k: v for k, v in scale.items() if k != "title"}),
        yaxis=axis(f"mean {label(c.words.name)}, %"),
        **({"annotations": notes} if notes else {}),
    )
    header = ("method", first, *([more[0]] if more else []), "mean, %")
    return Figure(name, title, " ".join(text), tuple(traces), layout, 480 if c.many else 380, header, tuple(rows))
