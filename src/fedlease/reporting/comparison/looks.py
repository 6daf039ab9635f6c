"""Styles of variants in figures: each its own, or that of its kind if there are many."""

from collections.abc import Sequence
from typing import Any

from fedlease.reporting.comparison.data import Comparison, Score, Variant
from fedlease.reporting.drawing import DASHES, PALETTE, SYMBOLS, axis, in_percent, label

__all__ = ["around", "bars", "colour_of", "dots", "hover", "legend_of", "line_of", "lines_of", "named_axis"]


def colour_of(c: Comparison, m: Variant) -> str:
    """The variant's own colour, or that of its kind if there are many."""
    return PALETTE[_number(c, m) % len(PALETTE)]


def dots(c: Comparison, m: Variant, texts: list[str], size: int = 9) -> dict[str, Any]:
    """A trace of markers, without coordinates."""
    symbol = SYMBOLS[_number(c, m) % len(SYMBOLS)]
    return {
        "type": "scatter", "mode": "markers", **legend_of(c, m), "hovertext": texts, "hoverinfo": "text",
        "marker": {"symbol": symbol, "color": colour_of(c, m), "size": size}, "cliponaxis": False,
    }  # fmt: skip


def legend_of(c: Comparison, m: Variant) -> dict[str, Any]:
    """An entry of the legend: the variant's own, or one for its kind, which shows and hides all of that kind."""
    if not c.many:
        return {"name": label(m.name, 30)}
    leads = m is next(v for v in c.variants if v.kind == m.kind)
    return {"name": label(m.kind or "other", 30), "legendgroup": f"kind {c.kinds.index(m.kind)}", "showlegend": leads}


def line_of(c: Comparison, m: Variant) -> dict[str, Any]:
    """Colour, dashes and width of a line if there are many variants; within a kind they differ by dashes."""
    same = [v for v in c.variants if v.kind == m.kind]
    return {
        "color": colour_of(c, m),
        "dash": DASHES[same.index(m) % len(DASHES)],
        "width": 3.5 if m is c.first else 1.2,
    }


def lines_of(c: Comparison, variants: Sequence[Variant]) -> tuple[dict[str, int], list[str]]:
    """Rows of a figure with one row per variant: name -> number of its row, and the labels of all rows.

    If there are many variants, the first of each kind is preceded by a row that names the kind.
    """
    places: dict[str, int] = {}
    texts: list[str] = []
    for number, m in enumerate(variants):
        if c.many and (number == 0 or variants[number - 1].kind != m.kind):
            texts.append(f"<b>{label(m.kind or 'other', 24)}</b>")
        places[m.name] = len(texts)
        texts.append(label(m.name, 24))
    return places, texts


def bars(along: str, scores: Sequence[Score], colour: str) -> dict[str, Any]:
    """Error bars of one standard deviation; none for one seed."""
    deviations = [in_percent(score.deviation) for score in scores]
    if None in deviations:
        return {}
    return {f"error_{along}": {"type": "data", "array": deviations, "thickness": 1.5, "width": 3, "color": colour}}


def around(values: Sequence[float]) -> list[float]:
    """A range that includes zero and all values, with a margin at both ends."""
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.05 * ((high - low) or 1)
    return [low - room, high + room]


def named_axis(texts: Sequence[str]) -> dict[str, Any]:
    """A vertical axis with texts at 0, 1, ... from the top."""
    return axis(
        "", tickmode="array", tickvals=list(range(len(texts))), ticktext=list(texts), showgrid=False,
        range=[len(texts) - 0.5, -0.5], ticklabelstandoff=8,
    )  # fmt: skip


def hover(m: Variant, text: str) -> str:
    """Text of the hover box."""
    return f"{label(m.name)}<br>{text}"


def _number(c: Comparison, m: Variant) -> int:
    return c.kinds.index(m.kind) if c.many else c.variants.index(m)
