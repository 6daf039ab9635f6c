"""The tables of a report."""

from dataclasses import dataclass, replace
from typing import Any

from fedlease.reporting.means import over, own_over, task_over, with_count
from fedlease.reporting.run.data import RunData
from fedlease.reporting.tables import human_bytes, percent
from fedlease.tasks.metric_words import further_means, of_metric

__all__ = [
    "Cell",
    "Table",
    "allocation_table",
    "bytes_table",
    "client_table",
    "newcomer_table",
    "task_table",
]


HEAD_BYTES = ("head_bytes_up", "head_bytes_down")


@dataclass(frozen=True)
class Cell:
    """Text, the number it is sorted by (None: as text), and the client it names, by place (None: none)."""

    text: str
    value: float | None = None
    client: int | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table that can be sorted; ``foot`` rows stay at the end."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[tuple[Cell, ...], ...] = ()

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, which stand at the right."""
        return any(row[column].value is not None for row in self.rows)


def allocation_table(run: RunData) -> Table | None:
    """Experts by tasks: how many clients; and which."""
    grouping = run.grouping
    if grouping is None:
        return None
    rows = []
    for expert in range(grouping.num_experts):
        members = grouping.members(expert)
        named = [run.task(client) for client in members if client in run.clients]
        counts = (Cell(str(n) if (n := named.count(task)) else "\N{MIDDLE DOT}", n) for task in run.tasks)
        rows.append((Cell(str(expert), expert), *counts, Cell(", ".join(members))))
    return Table("Clients of each expert by task", ("expert", *run.tasks, "clients"), tuple(rows))


def client_table(run: RunData) -> Table:
    """Every client with the score of every method; the best score of a row is marked."""
    done = [method for method in run.methods if method.summary is not None]
    summary = run.main.summary or (done[0].summary if done else None) or {}
    per_client: dict[str, Any] = summary.get("per_client", {})
    own = any("own_expert" in row for row in per_client.values())
    experts = run.experts()
    rows = []
    for place, (client, info) in enumerate(run.clients.items()):
        row = per_client.get(client, {})
        expert = experts.get(client)
        scores = [method.finals.get(client) for method in done]
        best = max((score for score in scores if score is not None), default=None)
        cells = [
            Cell(client, client=place),
            Cell(info.task),
            Cell("late" if client in run.late and expert is None else "-" if expert is None else str(expert), expert),
            Cell(f"{info.train_rows:,}", info.train_rows),
            Cell(f"{info.test_rows:,}", info.test_rows),
            _score(row.get("majority")),
            _score(row.get("bare_base")),
            *(_score(score, best) for score in scores),
        ]
        rows.append((*cells, _score(row.get("own_expert"))) if own else tuple(cells))
    foot = []
    if done:
        means = [method.mean for method in done]
        plain = [summary.get("majority_mean"), summary.get("bare_base_mean"), *means]
        plain += [summary.get("own_expert_mean")] if own else []
        foot = [(Cell("mean"), *(Cell("") for _ in range(4)), *map(_score, plain))]
        counts = [summary, summary, *(method.summary or {} for method in done), *([summary] if own else [])]
        foot.append((Cell("clients in the mean"), *(Cell("") for _ in range(4)), *(Cell(over(s)) for s in counts)))
    words = of_metric(run.metric)
    header = ("client", "task", "expert", "train rows", "test rows", words.naive, "untrained", *(m.name for m in done))
    header = (*header, "own expert only") if own else header
    return Table(f"Final {words.name} by client, in %", header, tuple(rows), tuple(foot))


def task_table(run: RunData) -> Table | None:
    """Every task with the mean of every finished method; None before the first has finished."""
    done = [method for method in run.methods if method.summary is not None]
    if not done:
        return None
    by_task = [run.task_means(method.averaged) for method in done]
    rows = []
    for task in run.tasks:
        members = sum(client.task == task for client in run.clients.values())
        best = max((means[task] or 0 for means in by_task), default=None)
        cells = [
            _counted(_score(means[task], best), task_over(method.summary or {}, task))
            for means, method in zip(by_task, done, strict=True)
        ]
        rows.append((Cell(task), Cell(str(members), members), *cells))
    foot = [
        (Cell("mean over clients"), Cell(str(len(run.clients)), 0), *(_score(m.mean) for m in done)),
        (Cell("clients in the mean"), Cell(""), *(Cell(over(m.summary or {})) for m in done)),
        (Cell("weighted by test rows"), Cell(""), *(_score((m.summary or {}).get("weighted_mean")) for m in done)),
    ]
    for key, name, values in further_means([m.summary or {} for m in done]):
        counts = [own_over(method.summary or {}, key) for method in done]
        further = [_counted(_score(value), count) for value, count in zip(values, counts, strict=True)]
        foot.append((Cell(name), Cell(""), *further))
    header = ("task", "clients", *(m.name for m in done))
    return Table(f"Mean {of_metric(run.metric).name} by task, in %", header, tuple(rows), tuple(foot))


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
    """Clients placed after the run; None where there are none."""
    if not run.newcomers:
        return None
    names = sorted({name for newcomer in run.newcomers for name in newcomer.scores})
    rows = []
    for n in run.newcomers:
        distances = ", ".join(f"{e}: {d:.3f}" for e, d in enumerate(n.distances))
        margin = "-" if n.margin is None else f"{n.margin:.3f}"
        head = (Cell(n.id), Cell(n.task), Cell(str(n.expert), n.expert), Cell(distances), Cell(margin, n.margin))
        rows.append((*head, Cell("yes" if n.unlike else "no"), *(_score(n.scores.get(name)) for name in names)))
    header = ("client", "task", "expert", "distance to each expert", "margin", "unlike any", *names)
    return Table("Clients that joined after the run", header, tuple(rows))


def _counted(cell: Cell, counts: tuple[int, int] | int | None) -> Cell:
    return cell if cell.value is None else replace(cell, text=with_count(cell.text, counts))


def _score(value: float | None, best: float | None = None) -> Cell:
    return Cell(percent(value), value, best=value is not None and best is not None and value >= best - 1e-9)
