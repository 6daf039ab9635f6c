"""The figure beside the verdict: what joining gains every client, or every client's score."""

from typing import Any

from fedlease.core.wording import counted
from fedlease.reporting.drawing import PALETTE, SYMBOLS, Figure, axis, base_layout, in_percent, label
from fedlease.reporting.formats import percent
from fedlease.reporting.run.data import RunData
from fedlease.reporting.verdict import EFFECTS, gain_words, worst_first
from fedlease.storage.verdict import Effect, Verdict
from fedlease.tasks.metric_words import of_metric

__all__ = ["gains_figure", "verdict_figures"]

TICKS = 24
"""Most names along an axis; more cannot be read."""
STYLES: dict[Effect, tuple[str, str]] = {
    "helps": (PALETTE[0], SYMBOLS[0]),
    "unclear": (PALETTE[7], SYMBOLS[1]),
    "costs": (PALETTE[1], SYMBOLS[2]),
}
"""Effect -> colour, and symbol for readers who cannot see the colour."""


def verdict_figures(run: RunData, verdict: Verdict) -> list[Figure]:
    """Gains with their intervals, worst first; scores beside the majority baseline if there are no gains."""
    if not verdict.clients:
        return []
    return [_scores(run, verdict) if verdict.gain is None else gains_figure(verdict)]


def gains_figure(verdict: Verdict) -> Figure:
    """Draws every client's gain from joining, with intervals, for a verdict that has gains."""
    gains = {client: gain for client in worst_first(verdict) if (gain := verdict.clients[client].gain)}
    order = list(gains)
    traces = []
    for effect, (colour, symbol) in STYLES.items():
        clients = [client for client in order if verdict.clients[client].effect == effect]
        if clients:
            own = [gains[client] for client in clients]
            x = [in_percent(gain.difference) for gain in own]
            error = {
                "type": "data", "symmetric": False, "thickness": 1.6, "width": 0, "color": colour,
                "array": [round(100 * (gain.high - gain.difference), 2) for gain in own],
                "arrayminus": [round(100 * (gain.difference - gain.low), 2) for gain in own],
            }  # fmt: skip
            text = [f"{label(c)}: {gain_words(gain)} points" for c, gain in zip(clients, own, strict=True)]
            traces.append(_dots([order.index(c) for c in clients], x, text, EFFECTS[effect], colour, symbol, error))
    zero = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1}
    shapes = [{**zero, "line": {"color": PALETTE[7], "width": 1.5, "dash": "dash"}}]
    against, metric = verdict.against, of_metric(verdict.metric).name
    summary = (
        f"Points of {metric} gained over {against}, with 95 % intervals over each client's own test rows; right of "
    )
    summary += "the dashed line joining helps. Of many such intervals one in twenty leaves out zero by chance."
    pairing = {True: "rows paired", False: "two proportions"}
    rows = tuple(
        (c, verdict.clients[c].task, gain_words(gain), EFFECTS[gain.effect], pairing[gain.paired])
        for c, gain in gains.items()
    )
    header = ("client", "task", "gain (95 % interval)", "joining", "interval")
    unit = f"gain over {against}, points"
    return _figure("What joining gains each client", summary, traces, order, unit, header, rows, shapes)


def _scores(run: RunData, verdict: Verdict) -> Figure:
    order = worst_first(verdict)
    words = run.words
    assert run.main.summary is not None
    majority = {client: run.main.summary.per_client[client].majority for client in order}
    scores = {client: verdict.clients[client].score for client in order}
    places = list(range(len(order)))
    text = [f"{label(client)}: {percent(scores[client])} %" for client in order]
    traces = [_dots(places, [in_percent(scores[c]) for c in order], text, run.main.name, PALETTE[0], SYMBOLS[0])]
    known = [place for place in places if majority[order[place]] is not None]
    if known:
        x = [in_percent(majority[order[place]]) for place in known]
        text = [f"{label(order[place])}: {words.majority} {percent(majority[order[place]])} %" for place in known]
        traces.append(_dots(known, x, text, words.majority, PALETTE[7], "line-ns-open"))
    rows = tuple((c, run.task(c), percent(scores[c]), percent(majority[c])) for c in order)
    summary = (
        f"{words.name} of {counted(len(order), 'client')} in %, the lowest at the top, beside the {words.majority}."
    )
    header = ("client", "task", run.main.name, words.majority)
    return _figure("Score of each client", summary, traces, order, f"{label(words.name)}, %", header, rows)


def _dots(
    places: list[int], x: list[Any], text: list[str], name: str, colour: str, symbol: str, error: Any = None
) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "x": x, "y": places, "name": label(name, 30), "hovertext": text,
        "hoverinfo": "text", "cliponaxis": False, "marker": {"color": colour, "symbol": symbol, "size": 9},
        **({} if error is None else {"error_x": error}),
    }  # fmt: skip


def _figure(
    title: str, text: str, traces: list[Any], order: list[str], unit: str, header: Any, rows: Any, shapes: Any = ()
) -> Figure:
    step = -(-len(order) // TICKS)
    ticks = list(range(0, len(order), step))
    layout = base_layout(
        xaxis=axis(unit),
        yaxis=axis("", tickmode="array", tickvals=ticks, ticktext=[label(order[i], 18) for i in ticks],
                   range=[len(order) - 0.4, -0.6], showgrid=False, ticklabelstandoff=8),
        shapes=list(shapes),
    )  # fmt: skip
    height = min(110 + 24 * len(order), 440)
    return Figure("verdict", title, text, tuple(traces), layout, height, header, rows)
