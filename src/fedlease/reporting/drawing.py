"""Common parts of all figures: their data class, colours, safe text for plotly, axes and lines."""

import html
from dataclasses import dataclass
from typing import Any

from fedlease.core.wording import JOINERS, printable
from fedlease.reporting.formats import percent

__all__ = [
    "DASHES",
    "PALETTE",
    "SYMBOLS",
    "Figure",
    "axis",
    "base_layout",
    "clean",
    "in_percent",
    "label",
    "level_line",
    "line_trace",
    "passes_axis",
]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")
"""Colours that are distinguishable with any colour vision, on light and on dark backgrounds."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "triangle-down", "pentagon", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


@dataclass(frozen=True)
class Figure:
    """A figure, with a summary and a table for readers who cannot see it.

    Attributes:
        id: identifier, unique in a page.
        title: title of the figure.
        summary: one or two sentences that say what it shows.
        data: plotly traces.
        layout: plotly layout, without colours of background and text, which the page sets.
        height: height in pixels.
        header: column titles of the table with its data.
        rows: rows of that table.
    """

    id: str
    title: str
    summary: str
    data: tuple[dict[str, Any], ...]
    layout: dict[str, Any]
    height: int
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def clean(text: str) -> str:
    """Text of unknown origin without control characters and marks that change the reading direction.

    The two joiners stay, since Persian, Hindi and joined emoji are misspelt without them.
    """
    return printable(text, keep=JOINERS)


def label(text: str, longest: int = 60) -> str:
    """Text that plotly can draw safely: markup is escaped, since plotly interprets HTML-like tags in every text.

    Long text loses its middle, since names often begin alike and end in a number.
    """
    shown = clean(text)
    if len(shown) > longest:
        end = longest // 2
        shown = f"{shown[: longest - end - 1]}\N{HORIZONTAL ELLIPSIS}{shown[-end:]}"
    return html.escape(shown, quote=False)


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title and the settings all axes share."""
    return {"title": {"text": title, "standoff": 12}, "automargin": True, "zeroline": False, "fixedrange": True, **more}


def base_layout(**more: Any) -> dict[str, Any]:
    """A layout without a title (the page has it) and with the legend above the plot."""
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}
    return {"margin": {"l": 10, "r": 12, "t": 24, "b": 10}, "legend": legend, "hovermode": "closest", **more}


def line_trace(number: int, name: str, x: list[Any], y: list[Any], texts: list[str], unit: str) -> dict[str, Any]:
    """A line with markers in the style of the method or task of this number.

    Args:
        number: selects colour, dashes and symbol.
        name: name for legend and hover boxes.
        x: coordinates.
        y: values.
        texts: texts of the hover boxes, one per value.
        unit: unit of ``x``.
    """
    shown = [f"{label(name)}<br>{unit} {label(str(at))}: {text}" for at, text in zip(x, texts, strict=True)]
    return {
        "type": "scatter", "mode": "lines+markers", "x": x, "y": y, "name": label(name, 30), "hovertext": shown,
        "hoverinfo": "text", "cliponaxis": False,
        "line": {"color": PALETTE[number % len(PALETTE)], "dash": DASHES[number % len(DASHES)], "width": 2},
        "marker": {"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 7},
    }  # fmt: skip


def level_line(level: float | None, name: str, text: str | None = None) -> dict[str, Any]:
    """Shapes and annotations of a layout for a dashed line across the plot; none if the level is unknown.

    Args:
        level: vertical coordinate of the line; a score in [0, 1] if ``text`` is None.
        name: name of the level.
        text: text for the level; None shows it in %.
    """
    if level is None:
        return {}
    y, shown = (100 * level, percent(level)) if text is None else (level, text)
    line = {"dash": "dash", "width": 1.5, "color": PALETTE[7]}
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": line}
    note = {"xref": "paper", "x": 1, "xanchor": "right", "y": y, "yanchor": "bottom", "showarrow": False,
            "bgcolor": "rgba(127,127,127,0.25)", "text": f"{label(name)} {shown}"}  # fmt: skip
    return {"shapes": [shape], "annotations": [note]}


def passes_axis(last: int, *, scored: bool) -> dict[str, Any]:
    """The axis of score curves up to ``last`` passes, or of method names if no round was scored."""
    if not scored:
        return axis("final scores: rounds were not scored", type="category")
    return axis("passes over the rows", **({"dtick": 1} if last <= 20 else {}))


def in_percent(value: float | None) -> float | None:
    """A score in [0, 1] as a rounded percentage."""
    return None if value is None else round(100 * value, 2)
