"""Renders the verdict on a run: sentences, and a table of clients with the worst first."""

import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from fedlease.core.wording import counted, enumerated
from fedlease.reporting.formats import percent, points
from fedlease.reporting.tables import Cell, Table, own_unit, score
from fedlease.storage.verdict import ClientVerdict, Effect, Gain, NextStep, TaskVerdict, Verdict
from fedlease.tasks.metric_words import of_metric, short_name
from fedlease.tasks.metrics import MetricWords

__all__ = [
    "EFFECTS",
    "NAMED",
    "by_task",
    "gain_table",
    "gain_words",
    "joining_words",
    "mean_gain_words",
    "step_words",
    "task_lines",
    "verdict_lines",
    "worst_first",
]

EFFECTS: dict[Effect, str] = {"helps": "helps", "costs": "costs", "unclear": "unclear"}
NAMED = 4
"""Most clients that a sentence names."""
SHOWN = 6
"""Most tasks that a line names."""
FURTHER = 2
"""Most further metrics in a table, which then fits a terminal of 80 characters."""


def gain_words(gain: Gain) -> str:
    """A gain in points with its 95 % interval, such as ``+1.7 (+0.4 to +3.0)``."""
    return f"{points(gain.difference)} ({points(gain.low)} to {points(gain.high)})"


def step_words(step: NextStep, out: Path | None = None) -> str:
    """Suggests the next step, with the command if there is one; ``out`` replaces DIR."""
    command = step.command if out is None else step.command.replace("DIR", shlex.quote(str(out)), 1)
    return f"Next: {step.text}" + (f" {command}" if command else "")


def verdict_lines(verdict: Verdict) -> list[str]:
    """The result, the gains by task, and the groups."""
    return [*verdict.sentences, *task_lines(verdict), *([verdict.groups.text] if verdict.groups else [])]


def task_lines(verdict: Verdict) -> list[str]:
    """One line with the mean gain of every task, lowest first; [] if tasks or gains are unknown."""
    order = sorted(verdict.tasks, key=lambda task: verdict.tasks[task].gain.difference)
    if not order:
        return []
    named = [f"{task} {gain_words(verdict.tasks[task].gain)}" for task in order[:SHOWN]]
    more = f"; {len(order) - SHOWN} more in the report" if len(order) > SHOWN else ""
    return [f"Gain by task, in points: {'; '.join(named)}{more}."]


def worst_first(verdict: Verdict) -> list[str]:
    """Clients by rising gain from joining; without gains, by rising score."""

    def key(client: str) -> tuple[bool, float, str]:
        row = verdict.clients[client]
        return row.gain is None, row.score if row.gain is None else row.gain.difference, client

    return sorted(verdict.clients, key=key)


def joining_words(verdict: Verdict, subject: str = "Joining") -> str:
    """The effects of joining, such as ``Joining helps 3 of 5 clients; costs radiology 8.0 points; ...``."""
    helps, costs, unclear = (verdict.having(effect) for effect in ("helps", "costs", "unclear"))
    total = counted(len(helps) + len(costs) + len(unclear), "client")
    if not helps and not costs:
        overall = verdict.gain.effect if verdict.gain is not None else "unclear"
        if overall != "unclear":
            return f"{subject} {overall} on average; for none of {total} alone do the test rows tell."
        return f"{subject} makes no difference that the test rows can show, for any of {total} or on average."
    parts = [f"helps {len(helps)} of {total}" if helps else f"clearly helps none of {total}"]
    if costs:
        lost = [f"{c} {percent(-gain.difference)}" for c in costs if (gain := verdict.clients[c].gain) is not None]
        more = f" points and {len(costs) - NAMED} more" if len(costs) > NAMED else " points"
        parts.append(f"costs {enumerated(lost[:NAMED])}{more}")
    if unclear:
        parts.append(f"for {len(unclear)} the test rows do not tell")
    return f"{subject} {'; '.join(parts)}."


def mean_gain_words(verdict: Verdict) -> str:
    """A sentence with the mean gain and its interval; empty without gains."""
    if verdict.gain is None:
        return ""
    name = of_metric(verdict.metric).name
    return f"The mean gain over {verdict.against} is {gain_words(verdict.gain)} points of {name}."


def by_task(
    tasks: Mapping[str, str], gains: Mapping[str, Gain], gain: Callable[[list[str]], Gain]
) -> dict[str, TaskVerdict]:
    """The mean gain of every task; {} if there is only one task.

    Args:
        tasks: client -> task, of the clients that have a gain.
        gains: client -> gain.
        gain: returns the mean gain of a list of clients.
    """
    members: dict[str, list[str]] = {}
    for client, task in tasks.items():
        members.setdefault(task, []).append(client)
    if len(members) < 2:
        return {}
    found = {}
    for task, clients in sorted(members.items()):
        of = Counter(gains[client].effect for client in clients)
        found[task] = TaskVerdict(gain=gain(clients), helps=of["helps"], costs=of["costs"], unclear=of["unclear"])
    return found


def _further(row: ClientVerdict, key: str, words: MetricWords) -> Cell:
    return (own_unit if key in words.own_units else score)(row.metrics.get(key))


def gain_table(verdict: Verdict, words: MetricWords, most: int | None = None) -> Table | None:
    """Tabulates every client's score and gain from joining; None before the run has finished.

    Args:
        verdict: verdict on the run.
        words: words for the headline metric.
        most: most clients that are listed; None lists all.
    """
    order = worst_first(verdict)
    if not order:
        return None
    names = {**words.own_units, **{key.removeprefix("mean_"): short_name(n) for key, n in words.further.items()}}
    further = [key for key in names if any(key in row.metrics for row in verdict.clients.values())][:FURTHER]
    titles = ("client", "score", *(names[key] for key in further))
    shown = order if most is None or len(order) <= most + 1 else order[:most]
    rows = []
    for client in shown:
        row = verdict.clients[client]
        cells = [Cell(client), score(row.score), *(_further(row, key, words) for key in further)]
        if verdict.against is not None:
            gain = row.gain
            cells += [
                score(row.local),
                Cell(gain_words(gain), gain.difference) if gain else Cell("-"),
                Cell(EFFECTS[row.effect] if row.effect else "not scored by both"),
            ]
        rows.append(tuple(cells))
    name = words.name
    more = f"; {counted(len(order) - len(shown), 'client')} more in the report" if len(shown) < len(order) else ""
    if verdict.against is None:
        return Table(f"{name} in % by client, lowest first{words.units}{more}", titles, tuple(rows))
    caption = f"{name} in % by client, and the gain over training alone in points{words.units}{more}"
    header = (*titles, verdict.against, "gain (95 %)", "joining")
    return Table(caption, header, tuple(rows))
