"""Prints a run on a terminal, during it and at its end."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from fedlease.config.settings import read_values
from fedlease.core.types import Allocation
from fedlease.core.wording import COUNTING, counted
from fedlease.reporting.bars import Bars
from fedlease.reporting.formats import escape, human_bytes, human_seconds, percent, print_note
from fedlease.reporting.progress import ProgressListener
from fedlease.reporting.results import render_results
from fedlease.reporting.run.data import ALONE
from fedlease.reporting.run.words import dip_words
from fedlease.reporting.tables import allocation_table, certainty_lines
from fedlease.server.events import (
    Allocated,
    Event,
    RunFinished,
    RunStarted,
    StepFinished,
    UpdateRefused,
)
from fedlease.tasks.metric_words import of_metric
from fedlease.tasks.registry import make_task

__all__ = ["Terminal"]


class Terminal:
    """A listener that prints a run and shows its progress.

    Args:
        console: where the run is printed.
        models_here: whether the run folder has every client's model, so that the last line can load one.
        bars: how progress is shown; None takes what suits the console.

    Attributes:
        finished: whether the results were printed.
    """

    def __init__(self, console: Console, *, models_here: bool = True, bars: Bars | None = None) -> None:
        self.console = console
        self.models_here = models_here
        self.progress = ProgressListener(console, bars)
        self.finished = False
        self.tasks: Mapping[str, str] = {}
        self._scored = True
        self._printed: set[str] = set()
        self._before: tuple[str, int, Mapping[str, float]] = ("", 0, {})
        self._explained: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Receives one event."""
        self.progress(event)
        match event:
            case RunStarted():
                self._started(event)
            case UpdateRefused():
                self.console.print(
                    f"[bold red]refused[/] {escape(event.client)} in {event.phase} round {event.round}: "
                    f"[red]{escape(event.reason)}[/]",
                    soft_wrap=True,
                )
            case Allocated():
                self._allocated(event.allocation)
            case StepFinished():
                self._step_finished(event)
            case RunFinished():
                self._finished(event)

    def close(self) -> None:
        """Removes the bars; may be called at any time."""
        self.progress.close()

    def _started(self, event: RunStarted) -> None:
        self.tasks = event.tasks
        settings = event.settings
        task = make_task(read_values(settings))
        self._scored = task.score_rounds
        rows = sum(event.train_rows.values())
        self.console.print(
            f"[bold]{'Resuming' if event.resumed else 'Running'}[/] {settings['method']} "
            f"on {escape(settings['model'])}: "
            f"{counted(len(event.tasks), 'client')}, {counted(len(set(event.tasks.values())), 'task')}, "
            f"{counted(rows, 'train row')}, "
            f"seed {settings['seed']}, {counted(settings['threads'], 'thread')}, {settings['device']}, "
            + (f"heads {settings['head']}" if of_metric(task.metric).heads else task.describe()),
            soft_wrap=True,
        )
        self.console.print(f"Run folder: {escape(str(event.out))}", soft_wrap=True)
        if event.continues:
            self.console.print(f"Goes on from {escape(event.continues)}", soft_wrap=True)
        for client, reason in event.skipped.items():
            print_note(self.console, f"{client} is skipped: {reason}")
        for warning in event.warnings:
            print_note(self.console, warning)

    def _allocated(self, allocation: Allocation) -> None:
        scores = ", ".join(f"{k} groups {score:.3f}" for k, score in allocation.silhouettes.items())
        table = allocation_table(allocation, self.tasks).for_terminal()
        found = certainty_lines(allocation)
        table.caption = None
        self.console.print(table)
        for line in (COUNTING, *(found or [f"Silhouettes: {scores or 'none'}"])):
            self.console.print(escape(line), soft_wrap=True)
        self._printed.update(allocation.warnings)
        # The lines above already name the clients that have not learnt yet.
        named = [repr(client) for client in allocation.unsure if found]
        for warning in allocation.warnings:
            if not any(client in warning for client in named):
                print_note(self.console, warning)

    def _step_finished(self, event: StepFinished) -> None:
        record = event.record
        score = record["mean_score"]
        name = f"{record['phase']}" + (f" {record['round']}" if record["round"] else "")
        total = record["num_clients"]
        losses = [row["loss"] for row in record["clients"].values() if "loss" in row]
        loss = ""
        if losses:
            loss = f"train loss {sum(losses) / len(losses):.3f} ({len(losses)} of {counted(total, 'client')}), "
        # Without a score a dash is printed, and nothing at all if the run does not score rounds.
        over = f" ({record['averaged']} of {counted(total, 'client')})" if score is not None else ""
        # In a step that sums warm-ups which clients have kept, nothing is trained or scored.
        kept = bool(record["clients"]) and not losses and score is None
        scored = f"model received scores {percent(score)}{over}, " if self._scored and not kept else ""
        valid = ""
        if "valid" in record:
            found = record["valid"]
            value = percent(found["mean"]) if found["metric"] == "score" else f"{found['mean']:.3f}"
            best = ", the best so far" if found["best_round"] == record["round"] else ""
            valid = f"validation {found['metric']} {value} after it{best}, "
        self.console.print(
            f"{record['method']} {name}: {loss}{scored}{valid}"
            f"{human_bytes(record['bytes_up'])} up, {human_seconds(record['seconds']['step'])}",
            soft_wrap=True,
        )
        for client, found in record.get("suspects", {}).items():
            for odd in found:
                if not odd.startswith("refused"):
                    print_note(self.console, f"{client} is a suspect: {odd}")
        self._dip(record)

    def _dip(self, record: Mapping[str, Any]) -> None:
        """Explains once per method why its mean score fell from one round to the next."""
        method, scores = record["method"], {c: row["score"] for c, row in record["clients"].items() if "score" in row}
        before, self._before = self._before, (method, record["round"], scores)
        if before[0] == method and method not in (ALONE, *self._explained):
            reason = dip_words(before[2], scores, first=before[1] == 0 and record["round"] > 0)
            if reason:
                self._explained.add(method)
                print_note(self.console, f"{method}: {reason}")

    def _finished(self, event: RunFinished) -> None:
        self.close()
        render_results(event.out, event.summaries, self.console, models_here=self.models_here, printed=self._printed)
        self.finished = True
