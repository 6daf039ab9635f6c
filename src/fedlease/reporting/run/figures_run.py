"""Figures of a run: scores, expert usage, bytes, seconds."""

from collections.abc import Mapping
from typing import Any

from fedlease.core.wording import counted
from fedlease.reporting.drawing import (
    PALETTE,
    Figure,
    axis,
    base_layout,
    in_percent,
    label,
    level_line,
    line_trace,
    passes_axis,
)
from fedlease.reporting.formats import human_bytes, human_seconds, percent
from fedlease.reporting.run.data import RunData, mean
from fedlease.reporting.run.usage_numbers import Depth, adapter_names, usage_by_depth, usage_sentence

__all__ = ["bytes_figures", "score_figures", "seconds_figures", "usage_figures"]

PHASES = ("train", "evaluate", "aggregate")
HATCHES = ("", "/", ".", "x", "\\", "-", "+", "|")


def score_figures(run: RunData) -> list[Figure]:
    """Means of all methods, and the main method by task; [] before anything was scored."""
    figures = []
    if any(method.points for method in run.methods):
        figures.append(_means(run))
    if run.main.points:
        figures.append(_by_task(run))
    return figures


def usage_figures(run: RunData) -> list[Figure]:
    """Experts per token by depth, and the usage of one client, which the reader of the page picks."""
    layers = usage_by_depth(run)
    return [_overview(run, layers), _of_client(run)] if layers else []


def bytes_figures(run: RunData) -> list[Figure]:
    """Adapter bytes up and down per step; [] before the first step."""
    if not any(method.steps for method in run.methods):
        return []
    traces = []
    for number, method in enumerate(run.methods):
        x = [step.step for step in method.steps]
        everything = [step.bytes_down for step in method.steps]
        for key, name, place in (("bytes_up", "up", ""), ("bytes_down", "down", "2")):
            y = [getattr(step, key) for step in method.steps]
            trace = line_trace(number, method.name, x, y, [human_bytes(v) for v in y], "step")
            traces.append({**trace, "xaxis": f"x{place}", "yaxis": f"y{place}", "showlegend": name == "up"})
        if method is run.main and everything != [step.bytes_up for step in method.steps]:
            texts = [f"if all were sent up: {human_bytes(v)}" for v in everything]
            line = {"dash": "dot", "width": 1.5, "color": PALETTE[7], "shape": "linear"}
            traces.append(
                {"type": "scatter", "mode": "lines", "x": x, "y": everything, "name": "up, if all were sent",
                 "line": line, "hovertext": texts, "hoverinfo": "text"},
            )  # fmt: skip
    steps = max((len(method.steps) for method in run.methods), default=0)
    ticks = {"dtick": 1 if steps <= 20 else None, "showgrid": False}
    size = {"rangemode": "tozero", "tickformat": "~s", "ticksuffix": "B"}
    layout = base_layout(
        xaxis=axis("", **ticks, matches="x2"),
        yaxis=axis("up", domain=[0.56, 1], **size),
        xaxis2=axis("step", **ticks, anchor="y2"),
        yaxis2=axis("down", domain=[0, 0.44], **size),
    )
    text = "Adapter bytes of all clients together in each step, up above and down below. "
    text += " ".join(
        f"{m.name}: {human_bytes(m.total('bytes_up'))} up, {human_bytes(m.total('bytes_down'))} down."
        for m in run.methods
    )
    rows = tuple(
        (m.name, str(s.step), s.phase, human_bytes(s.bytes_up), human_bytes(s.bytes_down))
        for m in run.methods
        for s in m.steps
    )
    header = ("method", "step", "phase", "up", "down")
    return [Figure("bytes-steps", "Adapter bytes per step", text, tuple(traces), layout, 460, header, rows)]


def seconds_figures(run: RunData) -> list[Figure]:
    """Seconds by phase: totals by method, and per step of the main method."""
    timed = [method for method in run.methods if method.steps]
    if not timed:
        return []
    totals = _bars([m.name for m in timed], {p: [m.spent(p) for m in timed] for p in PHASES}, "h")
    layout = base_layout(
        barmode="stack", xaxis=axis("seconds", rangemode="tozero"), yaxis=axis("", autorange="reversed", showgrid=False)
    )
    rows = tuple((m.name, *(human_seconds(m.spent(p)) for p in PHASES)) for m in timed)
    text = " ".join(
        f"{name}: {', '.join(f'{phase} {took}' for phase, took in zip(PHASES, spent, strict=True))}."
        for name, *spent in rows
    )
    height = 110 + 44 * len(timed)
    figures = [Figure("seconds-total", "Time by method", text, totals, layout, height, ("method", *PHASES), rows)]
    steps = run.main.steps
    if steps:
        named = [f"{step.step} {step.phase}" for step in steps]
        bars = _bars(named, {p: [s.seconds.get(p, 0.0) for s in steps] for p in PHASES}, "v")
        layout = base_layout(
            barmode="stack", xaxis=axis("step and phase", showgrid=False), yaxis=axis("seconds", rangemode="tozero")
        )
        slowest = max(steps, key=lambda s: sum(s.seconds.get(p, 0.0) for p in PHASES))
        text = f"Seconds in each of {counted(len(steps), 'step')} of {run.main.name}; step {slowest.step} took longest."
        rows = tuple(
            (m.name, str(s.step), s.phase, *(human_seconds(s.seconds.get(p, 0.0)) for p in PHASES))
            for m in timed
            for s in m.steps
        )
        header = ("method", "step", "phase", *PHASES)
        figures.append(
            Figure("seconds-steps", f"Time per step of {run.main.name}", text, bars, layout, 320, header, rows)
        )
    return figures


def _means(run: RunData) -> Figure:
    traces, text, rows = [], [], []
    for number, method in enumerate(run.methods):
        curve = [(point.passes, point.mean, len(point.scores)) for point in method.points]
        texts = [f"{percent(y)} %, {count} of {counted(len(run.clients), 'client')}" for _, y, count in curve]
        trace = line_trace(
            number, method.name, [x for x, _, _ in curve], [in_percent(y) for _, y, _ in curve], texts, "passes"
        )
        trace["line"]["width"] = 3 if method is run.main else 1.8
        traces.append(_at_the_end(run, trace))
        if curve:
            done = "ends at" if method.summary is not None else "stands at"
            text.append(
                f"{method.name} {done} {percent(curve[-1][1])} % after {counted(curve[-1][0], 'pass', 'passes')}."
            )
        rows += [(method.name, str(x), percent(y), str(count)) for x, y, count in curve]
    majority = run.main.summary.majority_mean if run.main.summary else None
    if not run.learnt.score_rounds:
        text.append("Rounds were not scored: these are the final scores.")
    layout = base_layout(
        xaxis=_passes_axis(run),
        yaxis=axis(f"mean {label(run.words.name)}, %"),
        **level_line(majority, run.words.majority),
    )
    header = ("method", "passes", "mean, %", "clients scored")
    return Figure("score-means", "Mean over clients", " ".join(text), tuple(traces), layout, 400, header, tuple(rows))


def _by_task(run: RunData) -> Figure:
    traces, text, rows = [], [], []
    curves = [(point.passes, run.task_means(point.scores)) for point in run.main.points]
    for number, task in enumerate(run.tasks):
        curve = [(x, means[task]) for x, means in curves if means[task] is not None]
        if not curve:
            continue
        texts = [f"{percent(y)} %" for _, y in curve]
        trace = line_trace(number, task, [x for x, _ in curve], [in_percent(y) for _, y in curve], texts, "passes")
        traces.append(_at_the_end(run, trace))
        first, last = percent(curve[0][1]), percent(curve[-1][1])
        text.append(f"{task} from {first} to {last} %." if run.learnt.score_rounds else f"{task} ends at {last} %.")
    for client in run.clients:
        cells = [percent(point.scores.get(client)) for point in run.main.points]
        rows.append((client, run.task(client), *cells))
    traces.append(
        {"type": "scatter", "mode": "lines+markers", "x": [], "y": [], "name": "picked client", "visible": False,
         "meta": "picked", "hoverinfo": "text", "hovertext": [], "line": {"width": 4}, "marker": {"size": 9}},
    )  # fmt: skip
    layout = base_layout(
        xaxis=_passes_axis(run),
        yaxis=axis(f"{label(run.words.name)}, %"),
    )
    header = ("client", "task", *(f"{counted(point.passes, 'pass', 'passes')}" for point in run.main.points))
    title = f"{run.main.name} by task, and one client"
    return Figure("score-tasks", title, " ".join(text), tuple(traces), layout, 400, header, tuple(rows))


def _overview(run: RunData, layers: tuple[Depth, ...]) -> Figure:
    traces = []
    for number, task in enumerate(run.tasks):
        x = [layer.name for layer in layers if task in layer.by_task]
        y = [round(layer.by_task[task], 3) for layer in layers if task in layer.by_task]
        trace = line_trace(number, task, x, y, [f"{v:.2f} experts" for v in y], "layer")
        trace["line"]["shape"] = "linear"
        traces.append(trace)
    layout = base_layout(
        xaxis=axis("layer, from the input to the output", type="category"), yaxis=axis("experts per token")
    )
    rows = tuple(
        (layer.name, *(f"{layer.by_task[t]:.2f}" if t in layer.by_task else "-" for t in run.tasks)) for layer in layers
    )
    title, text = "Experts per token by depth", usage_sentence(run)
    return Figure("usage-depth", title, text, tuple(traces), layout, 360, ("layer", *run.tasks), rows)


def _of_client(run: RunData) -> Figure:
    usage = run.usage()
    first = next(client for client in sorted(usage) if usage[client])
    experts = len(next(iter(usage[first].values())).weights)
    names = adapter_names(run.main.name, experts)
    traces = [
        {"type": "bar", "orientation": "h", "x": [], "y": [], "name": names[e], "hovertext": [],
         "hoverinfo": "text", "marker": _hatched(e)}
        for e in range(experts)
    ]  # fmt: skip
    layout = base_layout(
        barmode="stack",
        xaxis=axis("mean weight per token", range=[0, 1.001]),
        yaxis=axis("", autorange="reversed", showgrid=False, type="category"),
    )
    text = "Mean weight of each adapter in every module of the client that is picked; at the right, experts per token."
    rows = []
    for client, modules in sorted(usage.items()):
        weights = [mean(m.weights[e] for m in modules.values()) for e in range(experts)]
        count = mean(m.experts_per_token for m in modules.values())
        shown = ("-" if w is None else f"{w:.3f}" for w in weights)
        rows.append((client, "-" if count is None else f"{count:.2f}", *shown))
    header = ("client, mean over modules", "experts per token", *names)
    height = min(130 + 24 * len(usage[first]), 1200)
    return Figure("usage-client", "Usage by one client", text, tuple(traces), layout, height, header, tuple(rows))


def _bars(names: list[str], values: Mapping[str, list[float]], way: str) -> tuple[dict[str, Any], ...]:
    traces = []
    for number, (phase, seconds) in enumerate(values.items()):
        hover = [f"{label(n)}<br>{phase}: {human_seconds(s)}" for n, s in zip(names, seconds, strict=True)]
        along, across = [round(s, 3) for s in seconds], [label(n, 30) for n in names]
        traces.append(
            {"type": "bar", "orientation": way, "x": along if way == "h" else across, "name": phase,
             "y": across if way == "h" else along, "hovertext": hover, "hoverinfo": "text",
             "marker": _hatched(number)},
        )  # fmt: skip
    return tuple(traces)


def _hatched(number: int) -> dict[str, Any]:
    pattern = {"shape": HATCHES[number % len(HATCHES)], "solidity": 0.2, "fillmode": "overlay"}
    return {"color": PALETTE[number % len(PALETTE)], "pattern": pattern}


def _passes_axis(run: RunData) -> dict[str, Any]:
    last = max((point.passes for method in run.methods for point in method.points), default=0)
    return passes_axis(last, scored=run.learnt.score_rounds)


def _at_the_end(run: RunData, trace: dict[str, Any]) -> dict[str, Any]:
    """Places a trace by its name if there are no curves, since the points of all methods have the same passes."""
    return trace if run.learnt.score_rounds else {**trace, "x": [trace["name"]] * len(trace["x"])}
