"""Shows the progress of a run: live bars on a terminal, one bar in a notebook, a line every half minute elsewhere."""

import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedlease.reporting.formats import escape, human_seconds

__all__ = ["EVERY", "Bars", "Lines", "LiveBars", "NotebookBar", "Standing", "bars_on"]

EVERY = 30.0
"""Seconds between two lines of text."""

REFRESH = 0.1
"""Least number of seconds between updates of a bar."""

BAR = 10
"""Width of a bar in characters, which leaves room for client, batch and loss on a terminal of 80."""

SPEED_WINDOW = 3600.0
"""Seconds over which the speed is estimated; a round may take many minutes."""


@dataclass
class Standing:
    """The progress of a method.

    Attributes:
        method: its name.
        first: number of steps that were done when the method was begun or resumed.
        done: number of steps done; steps are waves of the warm-up and rounds.
        total: number of all steps; None before the first.
        step: name of the current step, such as ``experts 2``; empty between steps.
        asked: number of clients of the current step.
        answered: number of these that have finished.
        client: the client that trains, or trained last.
        batch: number of its batches done.
        batches: number of its batches; 0 between clients.
        loss: loss of the last batch.
        begun: time when the method was begun or resumed, by the monotonic clock.
    """

    method: str
    first: int
    done: int
    total: int | None = None
    step: str = ""
    asked: int = 0
    answered: int = 0
    client: str = ""
    batch: int = 0
    batches: int = 0
    loss: float = 0.0
    begun: float = 0.0

    @property
    def completed(self) -> float:
        """Number of steps done, including the completed part of the current one."""
        current = self.batch / self.batches if self.batches else 0.0
        return self.done + min(1.0, (self.answered + current) / self.asked if self.asked else 0.0)

    @property
    def left(self) -> float | None:
        """Estimated seconds left, at the speed so far; None if nothing was done yet."""
        gained = self.completed - self.first
        if self.total is None or gained <= 0:
            return None
        return (time.monotonic() - self.begun) * max(0.0, self.total - self.completed) / gained

    @property
    def batch_words(self) -> str:
        """Client, batch and loss; empty between clients."""
        return f"{self.client} {self.batch}/{self.batches} loss {self.loss:.3f}" if self.batches else ""

    def line(self) -> str:
        """The progress in one line."""
        if not self.step:
            scored = self.total is not None and self.done >= self.total
            return f"{self.method}: {'scores every client' if scored else 'is under way'}"
        words = [f"{self.method} {self.step}: {self.answered} of {self.asked} clients done"]
        if self.batches:
            words.append(f"{self.client} batch {self.batch} of {self.batches}, loss {self.loss:.3f}")
        if (left := self.left) is not None:
            words.append(f"about {human_seconds(round(left))} left")
        return "; ".join(words)


class Bars(Protocol):
    """Shows the progress of a run."""

    def waits(self, what: str) -> None:
        """Shows that something without steps begins, such as loading a model."""

    def begin(self, now: Standing) -> None:
        """Shows that a method begins or is resumed."""

    def step(self, now: Standing) -> None:
        """Shows that a step begins."""

    def show(self, now: Standing) -> None:
        """Shows progress within a step."""

    def close(self) -> None:
        """Removes what is drawn; may be called at any time."""


def bars_on(console: Console) -> Bars:
    """The kind of progress display that suits a console."""
    if console.is_jupyter:
        return NotebookBar(console)
    return LiveBars(console) if console.is_terminal and not console.is_dumb_terminal else Lines(console)


class LiveBars:
    """Two live bars: the steps, and the clients of the current step."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._status: Any = None
        self._progress: Progress | None = None
        self._steps: Any = None
        self._clients: Any = None
        self._drawn = 0.0

    def waits(self, what: str) -> None:
        """See :class:`Bars`."""
        self.close()
        self._status = self.console.status(escape(what))
        self._status.start()

    def begin(self, now: Standing) -> None:
        """See :class:`Bars`."""
        self.close()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=BAR),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
            speed_estimate_period=SPEED_WINDOW,
        )
        name = f"[bold]{escape(now.method)}[/] steps"
        self._steps = self._progress.add_task(name, total=None, completed=now.done, note="")
        self._clients = self._progress.add_task("clients", total=None, note="")
        self._progress.start()

    def step(self, now: Standing) -> None:
        """See :class:`Bars`."""
        if self._progress is not None:
            self._progress.reset(self._clients, total=now.asked, note="", description=escape(now.step))
            self._progress.update(self._steps, total=now.total)

    def show(self, now: Standing) -> None:
        """See :class:`Bars`."""
        clock = time.monotonic()
        if self._progress is None or (0 < now.batch < now.batches and clock - self._drawn <= REFRESH):
            return
        self._drawn = clock
        self._progress.update(self._steps, completed=now.completed)
        self._progress.update(self._clients, completed=now.answered, note=escape(now.batch_words))

    def close(self) -> None:
        """See :class:`Bars`."""
        for drawn in (self._status, self._progress):
            if drawn is not None:
                drawn.stop()
        self._status = self._progress = None


class NotebookBar:
    """One bar per method: a widget if ipywidgets is installed, otherwise text."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Any = None

    def waits(self, what: str) -> None:
        """See :class:`Bars`."""
        self.close()
        self.console.print(escape(what))

    def begin(self, now: Standing) -> None:
        """See :class:`Bars`."""
        self.close()
        with warnings.catch_warnings():
            # tqdm warns if widgets are not installed.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm

            form = "{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]{postfix}"
            self._bar = tqdm(desc=now.method, initial=now.done, total=1, bar_format=form, mininterval=REFRESH)

    def step(self, now: Standing) -> None:
        """See :class:`Bars`."""
        if self._bar is not None:
            self._bar.total = now.total
            self._bar.set_description(f"{now.method} {now.step}")

    def show(self, now: Standing) -> None:
        """See :class:`Bars`."""
        if self._bar is not None:
            self._bar.set_postfix_str(now.batch_words, refresh=False)
            self._bar.update(now.completed - self._bar.n)

    def close(self) -> None:
        """See :class:`Bars`."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Lines:
    """Prints lines from a thread of its own, so that they appear even during a slow batch or generation.

    Args:
        console: where lines are printed.
        every: seconds between two lines.
    """

    def __init__(self, console: Console, every: float = EVERY) -> None:
        self.console = console
        self.every = every
        self._stop: threading.Event | None = None

    def waits(self, what: str) -> None:
        """See :class:`Bars`."""
        self._say(what)
        begun = time.monotonic()
        self._beat(lambda: f"{what}: {time.monotonic() - begun:.0f} s so far")

    def begin(self, now: Standing) -> None:
        """See :class:`Bars`."""
        self._say(f"{now.method}: {'goes on' if now.first else 'begins'}")
        self._beat(now.line)

    def step(self, now: Standing) -> None:
        """See :class:`Bars`."""

    def show(self, now: Standing) -> None:
        """See :class:`Bars`."""

    def close(self) -> None:
        """See :class:`Bars`."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None

    def _beat(self, line: Callable[[], str]) -> None:
        self.close()
        self._stop = stop = threading.Event()

        def beat() -> None:
            while not stop.wait(self.every):
                self._say(line())

        threading.Thread(target=beat, name="fedlease-progress", daemon=True).start()

    def _say(self, text: str) -> None:
        self.console.print(escape(text), soft_wrap=True)
