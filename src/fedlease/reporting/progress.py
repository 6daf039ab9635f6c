"""Shows the progress of a run by its events."""

import time

from rich.console import Console

from fedlease.reporting.bars import Bars, Standing, bars_on
from fedlease.server.events import (
    BatchTrained,
    ClientFinished,
    Event,
    MethodFinished,
    MethodStarted,
    RunStarted,
    StepFinished,
    StepStarted,
)

__all__ = ["ProgressListener"]


class ProgressListener:
    """A listener that shows the progress of a run, and nothing else.

    Args:
        console: where progress is shown.
        bars: how it is shown; None takes what suits the console.

    Attributes:
        now: progress of the current method.
    """

    def __init__(self, console: Console, bars: Bars | None = None) -> None:
        self.bars = bars if bars is not None else bars_on(console)
        self.now = Standing("", 0, 0)
        self._rounds = 0

    def __call__(self, event: Event) -> None:
        """Receives one event."""
        now = self.now
        match event:
            case MethodStarted():
                self._rounds = event.rounds
                self.now = Standing(event.method, event.done, event.done, begun=time.monotonic())
                self.bars.begin(self.now)
            case StepStarted():
                now.step, now.asked, now.answered = f"{event.phase} {event.round or ''}".strip(), len(event.clients), 0
                now.batch = now.batches = 0
                # Counted from the current round, since methods begin at round 0 or 1, and warm-up waves share a round.
                now.total = now.done + self._rounds - event.round + 1
                self.bars.step(now)
            case BatchTrained():
                now.client, now.batch, now.batches, now.loss = event.client, event.done, event.total, event.loss
                self.bars.show(now)
            case ClientFinished():
                now.answered += 1
                now.batch = now.batches = 0
                self.bars.show(now)
            case StepFinished():
                now.done += 1
                now.step, now.asked, now.answered, now.batches = "", 0, 0, 0
                self.bars.show(now)
            case RunStarted() | MethodFinished():
                self.close()

    def close(self) -> None:
        """Removes what is drawn; may be called at any time."""
        self.bars.close()
