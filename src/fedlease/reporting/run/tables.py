"""The tables of a report."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedlease.reporting.formats import human_bytes, similarity_texts
from fedlease.reporting.means import over
from fedlease.reporting.run.data import MethodRun, RunData
from fedlease.reporting.tables import Cell, Table, alone_words, number, own_unit, results_table, score
from fedlease.reporting.verdict import EFFECTS, gain_words
from fedlease.storage.class_scores import never_predicted
from fedlease.storage.summary import ClientScores, Summary
from fedlease.storage.verdict import Verdict
from fedlease.tasks.metric_words import short_name

__all__ = ["bytes_table", "client_table", "newcomer_table", "task_table"]


EMPTY = Cell("")
NOT_SCORED = ClientScores(task="")
HEAD_BYTES = ("head_bytes_up", "head_bytes_down")


@dataclass(frozen=True)
class _Column:
    """One column of the client table: its title, a cell per client, the mean, and the number of clients in it."""

    title: str
    cells: Sequence[Cell]
    mean: Cell = EMPTY
    over: Cell = EMPTY


def client_table(run: RunData, verdict: Verdict) -> Table:
    """Tabulates every client's score under every method and its gain; marks the best score of a row."""
    done = [method for method in run.methods if method.summary is not None]
    summary = run.main.summary or (done[0].summary if done else None)
    found = [summary.per_client.get(client, NOT_SCORED) if summary else NOT_SCORED for client in run.clients]
    words = run.words
    columns = [*_known(run)]
    for title, key in ((words.majority, "majority"), ("untrained", "bare_base")):
        mean = score(getattr(summary, f"{key}_mean")) if summary else EMPTY
        columns.append(_Column(title, [score(getattr(row, key)) for row in found], mean, _over(summary)))
    # A score is not marked as best if the model never predicts one of the classes.
    missed = {method.name: _mute(method) for method in done}
    sound = [{c: final for c, final in m.finals.items() if c not in missed[m.name]} for m in done]
    best = {client: max((own[client] for own in sound if client in own), default=None) for client in run.clients}
    for method, own in zip(done, sound, strict=True):
        cells = [score(method.finals.get(c), best[c] if c in own else None) for c in run.clients]
        columns.append(_Column(method.name, cells, score(method.mean), _over(method.summary)))
    columns += _of_verdict(run, verdict)
    if any(row.own_expert is not None for row in found):
        mean = score(summary.own_expert_mean if summary else None)
        columns.append(_Column("own expert only", [score(row.own_expert) for row in found], mean, _over(summary)))
    if verdict.gain is not None:
        title = f"gain over {verdict.against}, points (95 % interval)"
        cells = [_gain(verdict, client) for client in run.clients]
        columns.append(_Column(title, cells, _gain(verdict)))
    names = [Cell(client, client=place) for place, client in enumerate(run.clients)]
    columns.insert(0, _Column("client", names, Cell("mean"), Cell("clients in the mean")))
    foot = tuple(tuple(getattr(column, row) for column in columns) for row in ("mean", "over")) if summary else ()
    rows = tuple(zip(*(column.cells for column in columns), strict=True))
    caption = f"Final {words.name} by client, in %{words.units}"
    return Table(caption, tuple(column.title for column in columns), rows, foot)


def _known(run: RunData) -> Iterator[_Column]:
    """Columns that are known before anything is scored."""
    experts, lora, infos = run.experts(), run.settings.lora, run.clients.values()
    yield _Column("task", [Cell(info.task) for info in infos])
    placed = [experts.get(client) for client in run.clients]
    late = {*run.late}
    none = [Cell("late" if client in late else "-") for client in run.clients]
    yield _Column("expert", [cell if e is None else number(e + 1) for e, cell in zip(placed, none, strict=True)])
    if lora.ranks:
        yield _Column("rank", [number(lora.of(client)) for client in run.clients])
    yield _Column("train rows", [number(info.train_rows) for info in infos])
    yield _Column("test rows", [number(info.test_rows) for info in infos])


def _of_verdict(run: RunData, verdict: Verdict) -> Iterator[_Column]:
    """Columns of the main method's further metrics and of classes that it never predicts, if there are any."""
    rows = [verdict.clients.get(client) for client in run.clients]
    content = run.main.summary.content if run.main.summary else {}
    for key, name in run.words.own_units.items():
        values = [row.metrics.get(key) if row else None for row in rows]
        if any(value is not None for value in values):
            yield _Column(name, [own_unit(value) for value in values])
    for key, name in run.words.further.items():
        values = [row.metrics.get(key.removeprefix("mean_")) if row else None for row in rows]
        if any(value is not None for value in values):
            yield _Column(short_name(name), [score(value) for value in values], score(content.get(key)))
    if any(row and row.never_predicted for row in rows):
        yield _Column("never predicted", [Cell(", ".join(row.never_predicted) if row else "") for row in rows])


def _over(summary: Summary | None) -> Cell:
    return Cell(over(summary)) if summary else EMPTY


def _mute(method: MethodRun) -> set[str]:
    """The clients for which a method never predicts one of the classes in their test rows."""
    return {entry.client for entry in never_predicted(method.summary.classes)} if method.summary is not None else set()


def _gain(verdict: Verdict, client: str | None = None) -> Cell:
    """A client's gain with its effect, or the mean gain."""
    row = None if client is None else verdict.clients.get(client)
    gain = verdict.gain if client is None else row.gain if row else None
    if gain is None:
        return Cell("-")
    return Cell(f"{gain_words(gain)} {EFFECTS[gain.effect]}" if row else gain_words(gain), gain.difference)


def task_table(run: RunData) -> Table | None:
    """Tabulates every task with the mean of every finished method; None before the first has finished."""
    done = {method.name: method.summary for method in run.methods if method.summary is not None}
    clients = {task: sum(client.task == task for client in run.clients.values()) for task in run.tasks}
    return results_table(done, clients) if done else None


def bytes_table(run: RunData) -> Table | None:
    """Tabulates total bytes by method, and the bytes up if everything were sent; None before the first step."""
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
    """Tabulates clients that were placed after the run; None if there are none."""
    if not run.newcomers:
        return None
    names = sorted({name for found in run.newcomers.values() for name in found.scores})
    rows = []
    for client, found in run.newcomers.items():
        texts = similarity_texts(found.similarities, found.errors) or [f"{d:.3f}" for d in found.distances]
        near = ", ".join(f"{expert + 1}: {text}" for expert, text in enumerate(texts))
        known = found.margin is not None and math.isfinite(found.margin)
        margin = Cell(f"{found.margin:.3f}", found.margin) if known else Cell("-")
        expert = Cell("-") if found.expert is None else number(found.expert + 1)
        place = (Cell(client), Cell(found.task), expert, Cell(near or "-"), margin)
        scores = (score(found.scores.get(name)) for name in names)
        unlike = "not learnt yet" if not found.learnt else "yes" if found.unlike else "no"
        rows.append((*place, Cell(unlike), *scores))
    kind = "corrected similarity" if any(found.similarities for found in run.newcomers.values()) else "distance"
    header = ("client", "task", "expert", f"{kind} to each expert", "margin", "unlike any", *map(alone_words, names))
    return Table("Clients that joined after the run", header, tuple(rows))
