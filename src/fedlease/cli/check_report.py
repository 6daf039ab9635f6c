"""Output of ``fedlease check``."""

from collections.abc import Mapping

from rich.console import Console

from fedlease.core.wording import counted
from fedlease.reporting.formats import escape, human_bytes, human_seconds, print_note, target_column
from fedlease.reporting.tables import Cell, Table, number
from fedlease.runs.estimate import CheckReport

__all__ = ["render_check", "threads_line"]

GUESSED = "states another)"
"""End of a note about how files are read."""
ALIKE = 1.1
"""Largest ratio of a thread count's time to the fastest one's at which no other number is recommended."""


def render_check(report: CheckReport, console: Console, command: str = "fedlease run") -> None:
    """Prints the clients, the cost of the run, whether settings and data can be used, and the next command.

    Args:
        report: of the check.
        console: to print to.
        command: that starts the run.
    """
    (title, targets), lora = target_column(report.by_label, report.scales), report.settings.lora
    clients = []
    for client, task in report.tasks.items():
        labels = [Cell(targets[client])] if title else []
        rank = [number(lora.of(client))] if lora.ranks else []
        rows = number(report.train_rows[client]), number(report.test_rows[client])
        clients.append((Cell(client), Cell(task), *labels, *rank, *rows))
    classes = [title] if title else []
    header = ("client", "task", *classes, *(["rank"] if lora.ranks else []), "train", "test")
    console.print(Table("clients", header, tuple(clients)).for_terminal())
    for client, reason in report.skipped.items():
        print_note(console, f"{client} is skipped: {reason}")
    for warning in report.warnings:
        print_note(console, warning)
    console.print(
        f"{counted(round(report.mean_tokens), 'token')} per row; base {report.base_parameters:,} parameters, one "
        f"expert {report.adapter_parameters:,}, routers {report.router_parameters:,}"
        + (f", head {report.head_parameters:,}" if report.head_parameters else ""),
        soft_wrap=True,
    )
    if report.seconds_per_row:
        console.print(threads_line(report.seconds_per_row, report.settings.num_threads), soft_wrap=True)
    for key, choice in report.chosen.items():
        console.print(f"{key} becomes {escape(choice)}.", soft_wrap=True)
    if report.noise:
        console.print(privacy_line(report), soft_wrap=True)
    console.print(f"Peak memory about {human_bytes(report.memory_bytes)}.")
    costs = tuple(
        (
            Cell(cost.method),
            *(Cell(human_bytes(count), count) for count in (cost.bytes_up, cost.bytes_down)),
            Cell(human_seconds(cost.seconds), cost.seconds),
        )
        for cost in report.estimates
    )
    caption = f"estimates, taking {counted(report.assumed_experts, 'expert')}"
    console.print(Table(caption, ("method", "up", "down", "time"), costs).for_terminal())
    if report.warnings:
        more = f"; {counted(len(report.warnings) - 1, 'more note')} above" if len(report.warnings) > 1 else ""
        # Notes about how files were read are the least important ones.
        first = next((note for note in report.warnings if not note.endswith(GUESSED)), report.warnings[0])
        console.print(
            f"[yellow]Settings and data can be used, but see to this: {escape(first)}{more}.[/]",
            soft_wrap=True,
        )
    else:
        console.print("[green]Settings and data are sound.[/]")
    console.print(f"Next: {escape(command)}", soft_wrap=True)


def privacy_line(report: CheckReport) -> str:
    """Describes the privacy guarantee and its noise."""
    given, noise = report.settings.privacy, report.noise
    least, most = min(noise, key=lambda client: noise[client]), max(noise, key=lambda client: noise[client])
    span = f"{noise[least]:.2f} ({least}) to {noise[most]:.2f} ({most})" if least != most else f"{noise[least]:.2f}"
    methods = (report.settings.method, *report.settings.baselines)
    over = f"over all {counted(len(methods), 'method')}" if len(methods) > 1 else "over the whole run"
    return (
        f"Differential privacy: epsilon {given.epsilon:g} at delta {given.delta:g} {over}, for every train row of a "
        f"client; noise {span} times the longest gradient of a row, {given.clip:g}."
    )


def threads_line(seconds: Mapping[int, float], threads: int) -> str:
    """Says which number of threads is the fastest, and how to set it.

    Args:
        seconds: number of threads -> seconds to train a row.
        threads: number of threads in the settings.
    """
    times = ", ".join(f"{1000 * took:.1f} ms on {count}" for count, took in sorted(seconds.items()))
    best = min(seconds, key=lambda count: seconds[count])
    if seconds[threads] <= ALIKE * seconds[best]:
        return f"A row trains in {times} threads: threads={threads} is right."
    return f"A row trains in {times} threads: threads={best} is faster now."
