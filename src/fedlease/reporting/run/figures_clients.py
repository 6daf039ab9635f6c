"""Figures of an allocation: distances or similarities, the dendrogram, and silhouettes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from fedlease.core.types import Allocation
from fedlease.core.wording import counted, expert_name
from fedlease.reporting.drawing import PALETTE, SYMBOLS, Figure, axis, base_layout, label, level_line
from fedlease.reporting.run.certainty import known_similarities
from fedlease.reporting.run.data import RunData

__all__ = ["allocation_figures", "ordered_clients"]

TICKS = 30
"""Most names along an axis; more cannot be read."""

CELLS = 150
"""Most clients of a heatmap of pairs; with more, cells are too small to see, and the page too large."""


@dataclass(frozen=True)
class _Measure:
    """A quantity of every pair of clients, which a heatmap shows.

    Attributes:
        id: id of the figure.
        names: name of one value and of several.
        own: value of a client paired with itself.
        digits: number of decimals shown.
        colours: further settings of the heatmap, such that near clients are dark.
        meaning: sentences that explain the values, with a space at the end.
    """

    id: str
    names: tuple[str, str]
    own: float
    digits: int
    colours: Mapping[str, Any]
    meaning: str = ""

    def heatmap(self, **more: Any) -> dict[str, Any]:
        title = {"text": self.names[0], "side": "right"}
        bar = {"title": title, "thickness": 12, "outlinewidth": 0, "len": 0.9}
        return {"type": "heatmap", "colorscale": "Cividis", "colorbar": bar, **self.colours, **more}

    def text(self, value: float | None) -> str:
        return "unknown" if value is None or np.isnan(value) else f"{value:.{self.digits}f}"


DISTANCE = _Measure("distances", ("distance", "distances"), 0.0, 3, {})
SIMILARITY = _Measure(
    "similarities",
    ("corrected similarity", "corrected similarities"),
    1.0,
    2,
    {"zmin": 0, "zmax": 1, "reversescale": True},
    "1 is the same task, 0 an unrelated one, below 0 a contrary one. What is unknown is left empty: clients that "
    "had not learnt their task have no similarities. ",
)


def ordered_clients(grouping: Allocation, method: str) -> list[str]:
    """Clients ordered by expert and, within an expert, such that near ones are neighbours."""
    leaves = _tree(grouping, method)["leaves"] if len(grouping.clients) > 1 else [0]
    rank = {grouping.clients[leaf]: place for place, leaf in enumerate(leaves)}
    return sorted(grouping.clients, key=lambda client: (grouping.assignment[client], rank[client]))


def allocation_figures(run: RunData) -> list[Figure]:
    """The figures for which the run has data."""
    grouping = run.grouping
    if grouping is None or len(grouping.clients) < 2:
        return []
    if grouping.corrected is not None:
        # The rule that makes groups of similarities is not a cut of a tree, so there is no dendrogram.
        known = len(grouping.clients) - len(grouping.unsure) > 1
        return [_pairs(run, grouping, SIMILARITY, known_similarities(grouping))] if known else []
    last = [_silhouettes(run, grouping)] if grouping.silhouettes else []
    if grouping.distances is None:
        return last
    distances = np.asarray(grouping.distances, dtype=np.float64)
    return [_pairs(run, grouping, DISTANCE, distances), _dendrogram(run, grouping), *last]


def _pairs(run: RunData, grouping: Allocation, measure: _Measure, values: NDArray[np.float64]) -> Figure:
    order = ordered_clients(grouping, run.settings.linkage)
    place = {client: number for number, client in enumerate(grouping.clients)}
    where = [place[client] for client in order]
    count = len(order)
    matrix = values[np.ix_(where, where)]
    np.fill_diagonal(matrix, np.nan)
    experts = [grouping.assignment[client] for client in order]
    if count > CELLS:
        return _blocks(matrix, experts, measure)
    z = [[None if np.isnan(d) else round(float(d), 4) for d in row] for row in matrix]
    means = _means(matrix, experts, measure)
    np.fill_diagonal(matrix, measure.own)
    errors = None if measure is DISTANCE else np.asarray(grouping.corrected_error)[np.ix_(where, where)]
    shown = [
        [
            measure.text(d) + ("" if errors is None or np.isnan(d) else f" ± {errors[i, j]:.2f}")
            for j, d in enumerate(row)
        ]
        for i, row in enumerate(matrix)
    ]
    who = [f"{label(client)} ({expert_name(expert)})" for client, expert in zip(order, experts, strict=True)]
    hover = [
        [f"{a}<br>{b}<br>{measure.names[0]} {value}" for b, value in zip(who, row, strict=True)]
        for a, row in zip(who, shown, strict=True)
    ]
    shapes = []
    for expert in sorted(set(experts)):
        first, last = experts.index(expert) - 0.5, count - 1 - experts[::-1].index(expert) + 0.5
        box = {"type": "rect", "x0": first, "x1": last, "y0": first, "y1": last}
        shapes.append({**box, "line": {"color": PALETTE[1], "width": 2}})
    title = f"{measure.names[1].capitalize()} between clients"
    text = (
        f"{measure.names[1].capitalize()} between {counted(count, 'client')}, ordered by expert; outlined blocks are "
    )
    text += f"the experts' groups. {measure.meaning}{means}"
    step = -(-count // TICKS)
    ticks = list(range(0, count, step))
    names = [label(order[i], 18) for i in ticks]
    side = {"tickmode": "array", "tickvals": ticks, "ticktext": names, "showgrid": False, "ticks": ""}
    gap = 1 if count <= TICKS else 0
    trace = measure.heatmap(z=z, text=hover, hoverinfo="text", xgap=gap, ygap=gap)
    layout = base_layout(
        xaxis=axis("", **side, tickangle=-60, range=[-0.5, count - 0.5], constrain="domain"),
        yaxis=axis("", **side, range=[count - 0.5, -0.5], scaleanchor="x", constrain="domain"),
        shapes=shapes,
    )
    rows = tuple((client, *row) for client, row in zip(order, shown, strict=True))
    return Figure(measure.id, title, text, (trace,), layout, 620, ("client", *order), rows)


def _blocks(matrix: NDArray[np.float64], experts: Sequence[int], measure: _Measure) -> Figure:
    """Draws means over pairs of groups, for too many clients to draw every pair."""
    numbers = sorted(set(experts))
    members = [np.flatnonzero(np.asarray(experts) == expert) for expert in numbers]
    means = [[_mean(matrix[np.ix_(a, b)]) for b in members] for a in members]
    names = [expert_name(number) for number in numbers]
    text = f"Mean {measure.names[1]} between the groups of {counted(len(numbers), 'expert')}, "
    text += f"of {counted(len(experts), 'client')} in all. {measure.meaning}{_means(matrix, experts, measure)} "
    text += f"A group of one client has no {measure.names[0]} within. distances.safetensors has every pair."
    layout = base_layout(
        xaxis=axis("", showgrid=False, ticks="", constrain="domain"),
        yaxis=axis("", showgrid=False, ticks="", autorange="reversed", scaleanchor="x", constrain="domain"),
    )
    trace = measure.heatmap(z=means, x=names, y=names, xgap=1, ygap=1)
    rows = tuple(
        (name, *("none" if d is None else measure.text(d) for d in row)) for name, row in zip(names, means, strict=True)
    )
    title = f"{measure.names[1].capitalize()} between groups"
    return Figure(measure.id, title, text, (trace,), layout, 620, ("", *names), rows)


def _means(matrix: NDArray[np.float64], experts: Sequence[int], measure: _Measure) -> str:
    same = np.equal.outer(experts, experts)
    inner, outer = _mean(matrix[same]), _mean(matrix[~same])
    if np.all(same):
        return "There is one group."
    means = ["-" if mean is None else measure.text(mean) for mean in (inner, outer)]
    return f"Mean within groups {means[0]}, between groups {means[1]}."


def _mean(distances: NDArray[np.float64]) -> float | None:
    known = distances[~np.isnan(distances)]
    return round(float(known.mean()), 4) if known.size else None


def _dendrogram(run: RunData, grouping: Allocation) -> Figure:
    tree = _tree(grouping, run.settings.linkage)
    heights = sorted(max(ys) for ys in tree["dcoord"])
    chosen, count = grouping.num_experts, len(grouping.clients)
    cut = (heights[count - chosen - 1] + heights[count - chosen]) / 2 if 1 < chosen < count else None
    names = [grouping.clients[leaf] for leaf in tree["leaves"]]
    xs: list[float | None] = []
    ys: list[float | None] = []
    hover: list[str] = []
    # Leaves are at the side, so that long names are horizontal.
    for places, distances in zip(tree["icoord"], tree["dcoord"], strict=True):
        xs += [*(round(float(d), 4) for d in distances), None]
        ys += [*((place - 5) / 10 for place in places), None]
        hover += [f"joined at {max(distances):.3f}"] * 5
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": xs, "y": ys, "text": hover, "hoverinfo": "text", "showlegend": False,
         "line": {"color": PALETTE[0], "width": 1.6}},
    ]  # fmt: skip
    experts = [grouping.assignment[name] for name in names]
    for expert in sorted(set(experts)):
        places = [place for place, found in enumerate(experts) if found == expert]
        style = {"size": 8, "symbol": SYMBOLS[expert % len(SYMBOLS)], "color": PALETTE[expert % len(PALETTE)]}
        traces.append(
            {"type": "scatter", "mode": "markers", "x": [0.0] * len(places), "y": places, "marker": style,
             "name": expert_name(expert), "text": [f"{label(names[p])}, {expert_name(expert)}" for p in places],
             "hoverinfo": "text", "cliponaxis": False},
        )  # fmt: skip
    shapes, notes = [], []
    if cut is not None:
        line = {"color": PALETTE[1], "width": 2, "dash": "dash"}
        shapes = [{"type": "line", "x0": cut, "x1": cut, "yref": "paper", "y0": 0, "y1": 1, "line": line}]
        note = {"text": f"cut: {counted(chosen, 'expert')}", "x": cut, "xanchor": "left", "xshift": 4}
        notes = [{**note, "yref": "paper", "y": 0.01, "yanchor": "bottom", "showarrow": False}]
    step = -(-count // TICKS)
    ticks = list(range(0, count, step))
    layout = base_layout(
        xaxis=axis(f"distance at which groups join ({run.settings.linkage} linkage)", rangemode="tozero"),
        yaxis=axis("", tickmode="array", tickvals=ticks, ticktext=[label(names[i], 18) for i in ticks], showgrid=False,
                   range=[count - 0.4, -0.6], ticklabelstandoff=8),
        shapes=shapes,
        annotations=notes,
    )  # fmt: skip
    text = f"Clients joined step by step, nearest first, by {run.settings.linkage} linkage. "
    if cut is None:
        text += "It is not cut: one expert."
    else:
        text += f"Cut at {cut:.3f} the tree falls into {counted(chosen, 'expert')}."
    rows = tuple((f"{number}", f"{height:.3f}") for number, height in enumerate(heights, 1))
    height = min(max(26 * count + 120, 260), 900)
    return Figure("dendrogram", "Dendrogram and cut", text, tuple(traces), layout, height, ("join", "distance"), rows)


def _silhouettes(run: RunData, grouping: Allocation) -> Figure:
    scores, chosen = grouping.silhouettes, grouping.num_experts
    ks = list(scores)
    least = run.settings.min_silhouette
    best = max(ks, key=lambda k: scores[k])
    colours = [PALETTE[1] if k == chosen else PALETTE[0] for k in ks]
    hatch = {"fillmode": "overlay", "solidity": 0.2, "shape": ["/" if k == chosen else "" for k in ks]}
    bars = {
        "type": "bar", "x": ks, "y": [round(scores[k], 4) for k in ks], "width": 0.6, "showlegend": False,
        "marker": {"color": colours, "pattern": hatch},
        "hovertext": [f"{k} groups: {scores[k]:.3f}" for k in ks], "hoverinfo": "text",
        "text": [f"{scores[k]:.3f}" for k in ks], "textposition": "outside", "cliponaxis": False,
    }  # fmt: skip
    layout = base_layout(
        xaxis=axis("number of groups", dtick=1 if len(ks) <= 16 else 5, showgrid=False),
        yaxis=axis("mean silhouette"),
        **level_line(least if least > -1 else None, "min_silhouette", f"{least:g}"),
    )
    text = "The silhouette says how much nearer clients are to their own group than to the next one: 1 is far nearer, "
    text += f"0 no nearer. It is highest for {best} groups, at {scores[best]:.3f}"
    text += f", and chose {chosen}, the hatched bar." if chosen > 1 else ": not above min_silhouette, so one expert."
    rows = tuple((str(k), f"{scores[k]:.4f}", "chosen" if k == chosen else "") for k in ks)
    title = "Silhouette by number of groups"
    return Figure("silhouettes", title, text, (bars,), layout, 320, ("groups", "silhouette", ""), rows)


def _tree(grouping: Allocation, method: str) -> dict[str, Any]:
    matrix = np.asarray(grouping.distances, dtype=np.float64)
    if grouping.corrected is not None:
        matrix = np.nan_to_num(1 - known_similarities(grouping), nan=1.0).clip(min=0)
    # The run's groups come from the same linkage of the same distances, so the tree fits them.
    tree: dict[str, Any] = dendrogram(linkage(squareform(matrix, checks=False), method=method), no_plot=True)
    return tree
