"""The tables of a report."""

import math

from fedlease.reporting.formats import human_bytes
from fedlease.reporting.means import over
from fedlease.reporting.run.data import RunData
from fedlease.reporting.tables import Cell, Table, alone_words, number, results_table, score
from fedlease.reporting.verdict import EFFECTS, gain_words
from fedlease.storage.summary import ClientScores
from fedlease.storage.verdict import Verdict
from fedlease.tasks.metric_words import of_metric

__all__ = ["bytes_table", "client_table", "newcomer_table", "task_table"]


NOT_SCORED = ClientScores(task="")
HEAD_BYTES = ("head_bytes_up", "head_bytes_down")


def client_table(run: RunData, verdict: Verdict) -> Table:
    """Every client with the score of every method and its gain; the best score of a row is marked."""
    done = [method for method in run.methods if method.summary is not None]
    summary = run.main.summary or (done[0].summary if done else None)
    per_client = summary.per_client if summary else {}
    own = any(row.own_expert is not None for row in per_client.values())
    gains = verdict.gain is not None
    experts, lora = run.experts(), run.settings.lora
    rows = []
    for place, (client, info) in enumerate(run.clients.items()):
        row = per_client.get(client, NOT_SCORED)
        expert = experts.get(client)
        finals = [method.finals.get(client) for method in done]
        best = max((final for final in finals if final is not None), default=None)
        cells = [
            Cell(client, client=place),
            Cell(info.task),
            Cell("late" if client in run.late and expert is None else "-") if expert is None else number(expert + 1),
            *([number(lora.of(client))] if lora.ranks else []),
            number(info.train_rows),
            number(info.test_rows),
            score(row.majority),
            score(row.bare_base),
            *(score(final, best) for final in finals),
            *([score(row.own_expert)] if own else []),
            *([_gain(verdict, client)] if gains else []),
        ]
        rows.append(tuple(cells))
    foot = []
    if summary:
        plain = [summary.majority_mean, summary.bare_base_mean, *(method.mean for method in done)]
        plain += [summary.own_expert_mean] if own else []
        counts = [summary, summary, *(method.summary for method in done), *([summary] if own else [])]
        beside = [Cell("")] * (5 if lora.ranks else 4)
        foot = [
            (Cell("mean"), *beside, *map(score, plain), *([_gain(verdict)] if gains else [])),
            (Cell("clients in the mean"), *beside, *(Cell(over(of)) for of in counts if of), *([Cell("")] * gains)),
        ]
    words = of_metric(run.metric)
    ranks = ("rank",) if lora.ranks else ()
    known = ("client", "task", "expert", *ranks, "train rows", "test rows", words.majority, "untrained")
    header = (*known, *(m.name for m in done), *(["own expert only"] if own else []))
    header += (f"gain over {verdict.against}, points (95 % interval)",) if gains else ()
    return Table(f"Final {words.name} by client, in %", header, tuple(rows), tuple(foot))


def _gain(verdict: Verdict, client: str | None = None) -> Cell:
    """A client's gain, or the mean one, with what it means."""
    row = None if client is None else verdict.clients.get(client)
    gain = verdict.gain if client is None else row.gain if row else None
    if gain is None:
        return Cell("-")
    return Cell(f"{gain_words(gain)} {EFFECTS[gain.effect]}" if row else gain_words(gain), gain.difference)


def task_table(run: RunData) -> Table | None:
    """Every task with the mean of every finished method; None before the first has finished."""
    done = {method.name: method.summary for method in run.methods if method.summary is not None}
    clients = {task: sum(client.task == task for client in run.clients.values()) for task in run.tasks}
    return results_table(done, clients) if done else None


def bytes_table(run: RunData) -> Table | None:
    """Totals by method, beside what sending everything up would cost."""
    timed = [method for method in run.methods if method.steps]
    if not timed:
        return None
    rows = []
    headed = any(method.total(key) for method in timed for key in HEAD_BYTES)
    for method in timed:
        up, down = method.total("bytes_up"), method.total("bytes_down")
        saved = f"{100 * (1 - up / down):.0f} %" if down else "-"
        heads = [method.total(key) for key in HEAD_BYTES] if headed else []
        cells = [Cell(method.name), *(Cell(human_bytes(v), v) for v in (up, down, down))]
        rows.append((*cells, Cell(saved, 1 - up / down if down else 0), *(Cell(human_bytes(v), v) for v in heads)))
    header = ("method", "up", "down", "up if all were sent", "saved", *(("heads up", "heads down") if headed else ()))
    return Table("Bytes of all clients and steps together", header, tuple(rows))


def newcomer_table(run: RunData) -> Table | None:
    """Clients placed after the run; None if there are none."""
    if not run.newcomers:
        return None
    names = sorted({name for found in run.newcomers.values() for name in found.scores})
    rows = []
    for client, found in run.newcomers.items():
        distances = ", ".join(f"{expert + 1}: {d:.3f}" for expert, d in enumerate(found.distances))
        known = found.margin is not None and math.isfinite(found.margin)
        margin = Cell(f"{found.margin:.3f}", found.margin) if known else Cell("-")
        place = (Cell(client), Cell(found.task), number(found.expert + 1), Cell(distances), margin)
        scores = (score(found.scores.get(name)) for name in names)
        rows.append((*place, Cell("yes" if found.unlike else "no"), *scores))
    header = ("client", "task", "expert", "distance to each expert", "margin", "unlike any", *map(alone_words, names))
    return Table("Clients that joined after the run", header, tuple(rows))
