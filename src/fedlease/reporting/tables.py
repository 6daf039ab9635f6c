"""Tables for terminal, page and Markdown: the allocation, and the results by method."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table as RichTable

from fedlease.core.types import Allocation
from fedlease.core.wording import counted, expert_name, listed, printable
from fedlease.reporting.formats import escape, human_bytes, human_seconds, percent
from fedlease.reporting.means import over, own_over, task_means, task_over, with_count
from fedlease.storage.summary import Summary
from fedlease.tasks.metric_words import further_means, of_metric

__all__ = [
    "Cell",
    "Table",
    "allocation_table",
    "alone_words",
    "certainty_lines",
    "cost_rows",
    "number",
    "own_unit",
    "results_table",
    "score",
]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: its text.
        value: number by which rows are sorted, or None.
        client: index of the client that it names, or None.
        best: whether it is the highest score of its row or column.
    """

    text: str
    value: float | None = None
    client: int | None = None
    best: bool = False


Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table whose rows can be sorted; the rows of ``foot`` stay at the end."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    foot: tuple[Row, ...] = ()

    def numeric(self, column: int) -> bool:
        """Whether a column has numbers, which are aligned right."""
        return self._numeric[column]

    @cached_property
    def _numeric(self) -> tuple[bool, ...]:
        # cached, since a page needs it for every cell
        return tuple(any(row[c].value is not None for row in self.rows) for c in range(len(self.header)))

    def for_terminal(self, *, slim: bool = False) -> RichTable:
        """The table for rich, with the best cells in bold; ``slim`` omits lines, so that more columns fit."""
        # Rich wraps a title at the table's width, which may be very small.
        table = RichTable(title=self.caption, box=HEAVY_HEAD, min_width=cell_len(self.caption))
        if slim:
            table.box, table.padding, table.pad_edge, table.show_edge = SIMPLE_HEAD, (0, 1, 0, 0), False, False
        for column, name in enumerate(self.header):
            table.add_column(
                escape(name), justify="right" if self.numeric(column) else "left", no_wrap=slim and column > 0
            )
        for section in (self.rows, self.foot):
            for row in section:
                table.add_row(*(f"[bold]{escape(c.text)}[/]" if c.best else escape(c.text) for c in row))
            table.add_section()
        return table

    def within(self, width: int) -> "list[Table]":
        """Splits the table by columns so that slim forms fit ``width`` characters; each part has the first column."""
        rows = [[cell.text for cell in row] for row in (*self.rows, *self.foot)]
        widths = [max(map(cell_len, column)) + 1 for column in zip(self.header, *rows, strict=True)]
        pieces: list[list[int]] = [[]]
        for column, needed in enumerate(widths[1:], start=1):
            if pieces[-1] and widths[0] + sum(widths[c] for c in pieces[-1]) + needed > width:
                pieces.append([])
            pieces[-1].append(column)
        if len(pieces) == 1:
            return [self]

        def of(section: tuple[Row, ...], piece: list[int]) -> tuple[Row, ...]:
            return tuple((row[0], *(row[c] for c in piece)) for row in section if any(row[c].text for c in piece))

        return [
            Table(
                self.caption if piece is pieces[0] else "",
                (self.header[0], *(self.header[column] for column in piece)),
                of(self.rows, piece),
                of(self.foot, piece),
            )
            for piece in pieces
        ]

    def markdown(self) -> list[str]:
        """The lines of the table in Markdown, without its caption."""
        rule = ("---:" if self.numeric(column) else "---" for column in range(len(self.header)))
        rows = ([cell.text for cell in row] for row in (*self.rows, *self.foot))
        lines = [[printable(text).replace("|", "\\|") for text in texts] for texts in (self.header, *rows)]
        return [f"| {' | '.join(texts)} |" for texts in (lines[0], [*rule], *lines[1:])]


def score(value: float | None, best: float | None = None) -> Cell:
    """A score in [0, 1] as a cell, marked if it equals ``best``."""
    return Cell(percent(value), value, best=value is not None and best is not None and value >= best - 1e-9)


def own_unit(value: float | None) -> Cell:
    """A number in the unit of a client's own values as a cell."""
    return Cell("-" if value is None else f"{value:.3g}", value)


def number(count: float | None) -> Cell:
    """A whole number as a cell."""
    return Cell("-" if count is None else f"{count:,}", count)


def allocation_table(allocation: Allocation, tasks: Mapping[str, str]) -> Table:
    """Tabulates experts with their clients, and the number of these per task."""
    rows = []
    for expert in range(allocation.num_experts):
        members = allocation.members(expert)
        named = [tasks.get(client, "default") for client in members]
        counts = ", ".join(f"{task} x {named.count(task)}" for task in sorted(set(named)))
        rows.append((number(expert + 1), Cell(", ".join(members)), Cell(counts)))
    caption = f"{counted(allocation.num_experts, 'expert')} allocated"
    return Table(caption, ("expert", "clients", "their tasks"), tuple(rows))


def certainty_lines(allocation: Allocation) -> list[str]:
    """The number of groups by corrected similarity, and the unsure clients; [] without such groups."""
    learnt = [client for client in allocation.clients if client not in allocation.unsure]
    if allocation.corrected is None or not learnt:
        return []
    groups = len({allocation.assignment[client] for client in learnt})
    have = "that has" if len(learnt) == 1 else "that have"
    lines = [
        f"{counted(groups, 'group')} by corrected similarity, of {counted(len(learnt), 'client')} {have} learnt enough"
    ]
    if allocation.unsure:
        of = {client: allocation.reliability.get(client) for client in allocation.unsure}
        named = [f"{client} ({'too few rows' if rel is None else f'{rel:.2f}'})" for client, rel in of.items()]
        lines.append(f"{counted(len(of), 'client')} not learnt yet, alone for now: {listed(named)}")
    return lines


def results_table(summaries: Mapping[str, Summary], clients: Mapping[str, int] | None = None) -> Table:
    """Tabulates scores of tasks by method, with means below; the best score of a task is marked.

    Args:
        summaries: method -> its summary.
        clients: task -> number of its clients, to show these; or None.
    """
    first, *_ = every = list(summaries.values())
    words = of_metric(first.metric, first.learnt)
    means = [task_means(summary) for summary in every]
    majority = task_means(first, "majority")
    rows = []
    for task in clients or majority:
        best = max((found[task] for found in means if task in found), default=None)
        cells = (
            _counted(score(found.get(task), best), task_over(summary, task))
            for found, summary in zip(means, every, strict=True)
        )
        beside = [number(clients[task])] if clients else []
        rows.append((Cell(task), *beside, *cells, score(majority.get(task))))

    def row(name: str, cells: Sequence[Cell], last: Cell | None = None) -> Row:
        beside = [number(sum(clients.values())) if last else Cell("")] if clients else []
        return (Cell(name), *beside, *cells, last or Cell(""))

    def mean_row(name: str, key: str, values: Sequence[float | None]) -> Row:
        cells = [_counted(score(v), own_over(s, key)) for s, v in zip(every, values, strict=True)]
        return row(name, cells)

    foot = [
        row("mean over clients", [score(s.mean) for s in every], score(first.majority_mean)),
        row("clients in the means", [Cell(over(s)) for s in every]),
        row("mean by test rows", [score(s.weighted_mean) for s in every]),
        row("worst client", [_worst(s) for s in every]),
    ]
    own = [s.own_expert_mean for s in every]
    if any(value is not None for value in own):
        foot.append(mean_row("own expert only", "own_expert_mean", own))
    foot.append(row("untrained", [score(s.bare_base_mean) for s in every]))
    foot += [mean_row(name, key, values) for key, name, values in further_means([s.content for s in every])]
    header = ("task", *(["clients"] if clients else []), *summaries, words.majority)
    return Table(f"{words.name} in % on each client's own test rows", header, tuple(rows), tuple(foot))


def alone_words(name: str) -> str:
    """Counts ``expert 0 alone``, a key of scores in ``onboarding.json``, from 1; leaves other names unchanged."""
    return re.sub(r"^expert (\d+) alone$", lambda found: f"{expert_name(int(found[1]))} alone", name)


def cost_rows(summaries: Mapping[str, Summary]) -> tuple[Row, ...]:
    """Bytes and training time, as rows for the table of results."""
    every = list(summaries.values())
    keys = {"adapters up": "bytes_up", "adapters down": "bytes_down"}
    if any(s.head_bytes_up or s.head_bytes_down for s in every):
        keys |= {"heads up": "head_bytes_up", "heads down": "head_bytes_down"}
    rows = {name: [human_bytes(getattr(s, key)) for s in every] for name, key in keys.items()}
    rows["training time"] = [human_seconds(s.seconds.get("train", 0)) for s in every]
    return tuple((Cell(name), *map(Cell, texts), Cell("")) for name, texts in rows.items())


def _worst(summary: Summary) -> Cell:
    worst = summary.worst_client
    return Cell(f"{percent(summary.worst_score)} {worst.client}") if worst else Cell("-")


def _counted(cell: Cell, counts: tuple[int, int] | int | None) -> Cell:
    return cell if cell.value is None else Cell(with_count(cell.text, counts), cell.value, best=cell.best)
