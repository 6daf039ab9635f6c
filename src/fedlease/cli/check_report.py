"""What ``fedlease check`` prints."""

from rich.console import Console
from rich.table import Table

from fedlease.core.wording import counted
from fedlease.reporting.tables import escape, human_bytes, human_seconds
from fedlease.runs.estimate import CheckReport

__all__ = ["render_check"]


def render_check(report: CheckReport, console: Console) -> None:
    """What ``fedlease check`` prints."""
    table = Table(title="clients")
    labelled = any(report.labels.values())
    for column in ("client", "task", *(["labels"] if labelled else []), "train", "test"):
        table.add_column(column, justify="right" if column in ("train", "test") else "left")
    for client, task in report.tasks.items():
        known = report.labels[client]
        labels = [escape(", ".join(known[:6]) + (" ..." if len(known) > 6 else ""))] if labelled else []
        rows = (str(report.train_rows[client]), str(report.test_rows[client]))
        table.add_row(escape(client), escape(task), *labels, *rows)
    console.print(table)
    for client, reason in report.skipped.items():
        console.print(f"[yellow]note[/] {escape(client)} is skipped: {escape(reason)}", soft_wrap=True)
    for warning in report.warnings:
        console.print(f"[yellow]note[/] {escape(warning)}", soft_wrap=True)
    console.print(
        f"{counted(round(report.mean_tokens), 'token')} per row; base {report.base_parameters:,} parameters, one "
        f"expert {report.adapter_parameters:,}, routers {report.router_parameters:,}"
        + (f", head {report.head_parameters:,}" if report.head_parameters else ""),
        soft_wrap=True,
    )
    console.print(f"Peak memory about {human_bytes(report.memory_bytes)}.")
    costs = Table(title=f"estimates, taking {counted(report.assumed_experts, 'expert')}")
    for column in ("method", "up", "down", "time"):
        costs.add_column(column, justify="left" if column == "method" else "right")
    for cost in report.estimates:
        up, down = human_bytes(cost.bytes_up), human_bytes(cost.bytes_down)
        costs.add_row(cost.method, up, down, human_seconds(cost.seconds))
    console.print(costs)
    if not report.warnings:
        console.print("[green]Settings and data are sound.[/]")
        return
    more = f"; {counted(len(report.warnings) - 1, 'more note')} above" if len(report.warnings) > 1 else ""
    console.print(
        f"[yellow]Settings and data can be used, but see to this: {escape(report.warnings[0])}{more}.[/]",
        soft_wrap=True,
    )
