"""What a person sees while a run goes on, and at its end."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedlease.core.types import Allocation
from fedlease.engines.events import (
    Allocated,
    BatchTrained,
    ClientFinished,
    Event,
    MethodFinished,
    MethodStarted,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
    UpdateRefused,
)
from fedlease.estimate import CheckReport

__all__ = ["Terminal", "allocation_table", "human_bytes", "human_seconds", "render_check", "results_table"]

REFRESH = 0.1
"""Seconds between updates of the batch line."""


class Terminal:
    """A listener that prints: live bars on a terminal, one line per step elsewhere.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.tasks: Mapping[str, str] = {}
        self._progress: Progress | None = None
        self._steps: Any = None
        self._clients: Any = None
        self._drawn = 0.0

    def __call__(self, event: Event) -> None:
        """Receives one event."""
        match event:
            case RunStarted():
                self._started(event)
            case MethodStarted():
                self._method(event)
            case StepStarted():
                self._step(event)
            case BatchTrained():
                self._batch(event)
            case ClientFinished():
                self._client(event)
            case UpdateRefused():
                self.console.print(
                    f"[bold red]refused[/] {escape(event.client)} in {event.phase} round {event.round}: "
                    f"{escape(event.reason)}"
                )
            case Allocated():
                self.console.print(allocation_table(event.allocation, self.tasks))
                for warning in event.allocation.warnings:
                    self.console.print(f"[yellow]note[/] {escape(warning)}")
            case StepFinished():
                self._step_finished(event)
            case MethodFinished():
                self.close()
            case RunFinished():
                self._finished(event)

    def close(self) -> None:
        """Takes the bars away; safe to call at any time."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _started(self, event: RunStarted) -> None:
        self.tasks = event.tasks
        settings = event.settings
        rows = sum(event.train_rows.values())
        self.console.print(
            f"[bold]{'Resuming' if event.resumed else 'Running'}[/] {settings['method']} "
            f"on {escape(settings['model'])}: "
            f"{len(event.tasks)} clients, {len(set(event.tasks.values()))} tasks, {rows} train rows, "
            f"seed {settings['seed']}, {settings['threads']} threads, {settings['device']}, "
            f"heads {settings['head']}",
            soft_wrap=True,
        )
        self.console.print(f"Run folder: {escape(str(event.out))}", soft_wrap=True)
        for warning in event.warnings:
            self.console.print(f"[yellow]note[/] {escape(warning)}")

    def _method(self, event: MethodStarted) -> None:
        self.close()
        if not self.console.is_terminal:
            self.console.print(f"{event.method}: begins" if not event.done else f"{event.method}: goes on")
            return
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
        )
        self._steps = self._progress.add_task(
            f"[bold]{event.method}[/] rounds", total=event.rounds + 1, completed=event.done, note=""
        )
        self._clients = self._progress.add_task("clients", total=None, note="")
        self._progress.start()

    def _step(self, event: StepStarted) -> None:
        if self._progress is not None:
            self._progress.reset(
                self._clients,
                total=len(event.clients),
                description=f"{event.phase} {event.round or ''}".strip(),
            )
            self._progress.update(self._steps, completed=event.round)

    def _batch(self, event: BatchTrained) -> None:
        now = time.monotonic()
        if self._progress is not None and (now - self._drawn > REFRESH or event.done == event.total):
            self._drawn = now
            note = f"{escape(event.client)} step {event.done}/{event.total} loss {event.loss:.3f}"
            self._progress.update(self._clients, note=note)

    def _client(self, event: ClientFinished) -> None:
        if self._progress is not None:
            self._progress.advance(self._clients)

    def _step_finished(self, event: StepFinished) -> None:
        record = event.record
        score = record["mean_score"]
        name = f"{record['phase']}" + (f" {record['round']}" if record["round"] else "")
        losses = [row["loss"] for row in record["clients"].values() if "loss" in row]
        loss = f"train loss {sum(losses) / len(losses):.3f}, " if losses else ""
        self.console.print(
            f"{record['method']} {name}: {loss}score on receipt {_percent(score)}, "
            f"{human_bytes(record['bytes_up'])} up, {human_seconds(record['seconds']['step'])}",
            soft_wrap=True,
        )

    def _finished(self, event: RunFinished) -> None:
        self.close()
        self.console.print(results_table(event.summaries))
        for line in _footer(event.out, event.summaries):
            self.console.print(line, soft_wrap=True)


def allocation_table(allocation: Allocation, tasks: Mapping[str, str]) -> Table:
    """Experts with their clients and tasks, and S(k) with the chosen M."""
    scores = ", ".join(
        f"[bold]{k}: {s:.3f}[/]" if k == allocation.num_experts else f"{k}: {s:.3f}"
        for k, s in allocation.silhouettes.items()
    )
    table = Table(title=f"{allocation.num_experts} experts allocated", caption=f"silhouette by k: {scores or 'none'}")
    table.add_column("expert", justify="right")
    table.add_column("clients")
    table.add_column("their tasks")
    for expert in range(allocation.num_experts):
        members = allocation.members(expert)
        named = [tasks.get(client, "default") for client in members]
        counts = ", ".join(f"{escape(task)} x {named.count(task)}" for task in sorted(set(named)))
        table.add_row(str(expert), escape(", ".join(members)), counts)
    return table


def results_table(summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """Tasks by methods, on the clients' own test rows."""
    first = next(iter(summaries.values()))
    table = Table(title=f"{first['metric']} in % on each client's own test rows")
    table.add_column("")
    for method in summaries:
        table.add_column(method, justify="right")
    table.add_column("majority class", justify="right")
    for task in first["per_task"]:
        rows = [row["majority"] for row in first["per_client"].values() if row["task"] == task]
        cells = [_percent(summary["per_task"].get(task)) for summary in summaries.values()]
        table.add_row(escape(task), *cells, _percent(sum(rows) / len(rows)))
    table.add_section()
    table.add_row(
        "mean over clients",
        *(f"[bold]{_percent(summary['mean'])}[/]" for summary in summaries.values()),
        _percent(first["majority_mean"]),
    )
    table.add_row("mean by test rows", *(_percent(s["weighted_mean"]) for s in summaries.values()), "")
    worst = [s["worst_client"] for s in summaries.values()]
    table.add_row("worst client", *(f"{_percent(w[first['metric']])} {escape(w['client'])}" for w in worst), "")
    own = [s["own_expert_mean"] for s in summaries.values()]
    if any(value is not None for value in own):
        table.add_row("own expert only", *(_percent(value) for value in own), "")
    table.add_row("untrained", *(_percent(s["bare_base_mean"]) for s in summaries.values()), "")
    table.add_section()
    table.add_row("adapters up", *(human_bytes(s["bytes_up"]) for s in summaries.values()), "")
    table.add_row("adapters down", *(human_bytes(s["bytes_down"]) for s in summaries.values()), "")
    table.add_row("training time", *(human_seconds(s["seconds"].get("train", 0)) for s in summaries.values()), "")
    return table


def render_check(report: CheckReport, console: Console) -> None:
    """What ``fedlease check`` prints."""
    table = Table(title="clients")
    for column in ("client", "task", "labels", "train", "test"):
        table.add_column(column, justify="right" if column in ("train", "test") else "left")
    for client, task in report.tasks.items():
        labels = ", ".join(report.labels[client][:6]) + (" ..." if len(report.labels[client]) > 6 else "")
        rows = (str(report.train_rows[client]), str(report.test_rows[client]))
        table.add_row(escape(client), escape(task), escape(labels), *rows)
    console.print(table)
    for warning in report.warnings:
        console.print(f"[yellow]note[/] {escape(warning)}")
    console.print(
        f"{report.mean_tokens:.0f} tokens per row; base {report.base_parameters:,} parameters, one expert "
        f"{report.adapter_parameters:,}, routers {report.router_parameters:,}, head {report.head_parameters:,}",
        soft_wrap=True,
    )
    console.print(f"Peak memory about {human_bytes(report.memory_bytes)}.")
    costs = Table(title=f"estimates, taking {report.assumed_experts} experts")
    for column in ("method", "up", "down", "time"):
        costs.add_column(column, justify="left" if column == "method" else "right")
    for cost in report.estimates:
        up, down = human_bytes(cost.bytes_up), human_bytes(cost.bytes_down)
        costs.add_row(cost.method, up, down, human_seconds(cost.seconds))
    console.print(costs)
    console.print("[green]Settings and data are sound.[/]")


def human_bytes(count: float) -> str:
    """1,234,567 -> ``1.2 MB``; decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """75 -> ``1 min 15 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _footer(out: Path, summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    first = next(iter(summaries.values()))
    client = escape(next(iter(first["per_client"])))
    folder = escape(str(out))
    lines = []
    if first["assignment"]:
        tasks = {name: row["task"] for name, row in first["per_client"].items()}
        if len(set(tasks.values())) > 1:
            from sklearn.metrics import adjusted_rand_score

            order = sorted(first["assignment"].keys() & tasks.keys())
            index = adjusted_rand_score([tasks[c] for c in order], [first["assignment"][c] for c in order])
            lines.append(
                f"{first['num_experts']} experts for {len(set(tasks.values()))} tasks; "
                f"agreement of the groups with the tasks (adjusted Rand index): {index:.2f}"
            )
    lines.append(
        f"All methods: {first['passes']} passes over each client's rows, heads {first['head']}, seed {first['seed']}."
    )
    lines.append(f"Run folder: {folder}")
    lines.append(f'Next: python -c "import fedlease; print(fedlease.load({folder!r}, {client!r}))"')
    return lines
