"""How far a run is, on each kind of console: what is drawn, what is printed and when."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from reporting.made_up import console

from fedlease.reporting import bars
from fedlease.reporting.bars import Lines, LiveBars, NotebookBar, Standing, bars_on
from fedlease.reporting.progress import ProgressListener
from fedlease.server.events import (
    BatchTrained,
    ClientFinished,
    MethodFinished,
    MethodStarted,
    StepFinished,
    StepStarted,
)

SOON = 0.02
CLIENTS = ("a", "b")


def eventually(found: Callable[[], bool]) -> bool:
    """Whether something becomes true within seconds."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if found():
            return True
        time.sleep(SOON / 2)
    return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock as seen by the module: its one value is the time."""
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    return now


class TestStanding:
    def test_the_rest_takes_as_long_per_step_as_what_was_done(self, clock: list[float]) -> None:
        # Resumed after one of four steps; half of the second took 60 s: 2.5 steps are left, 300 s.
        now = Standing("m", first=1, done=1, total=4, step="experts 1", asked=2, answered=1)
        assert now.left == 0.0  # no time has passed
        clock[0] = 60.0
        assert (now.completed, now.left) == (1.5, 300.0)

    def test_batches_count_as_a_part_of_their_client(self) -> None:
        assert Standing("m", 0, 0, asked=2, answered=1, batch=1, batches=4).completed == 0.625

    def test_before_anything_is_done_the_rest_is_unknown(self) -> None:
        assert Standing("m", 2, 2, total=4).left is None
        assert Standing("m", 0, 1).left is None

    def test_a_line_has_client_batch_loss_and_time_left(self, clock: list[float]) -> None:
        clock[0] = 90.0
        now = Standing("m", 0, 0, 3, "experts 2", asked=2, answered=0, client="a", batch=1, batches=2, loss=0.6931)
        # A quarter of a step in 90 s: 2.75 steps of 360 s are left, 990 s.
        assert now.line() == ("m experts 2: 0 of 2 clients done; a batch 1 of 2, loss 0.693; about 16 min 30 s left")
        assert Standing("m", 0, 3, 3).line() == "m: scores every client"
        assert Standing("m", 0, 0, 3).line() == "m: is under way"


def stream(listener: ProgressListener, *, finished: bool = True) -> None:
    listener(MethodStarted("m", 1, 0))
    listener(StepStarted("m", "warmup", 0, CLIENTS))
    listener(BatchTrained("m", "[red]a", 1, 4, 0.5))
    if finished:
        listener(ClientFinished("m", "warmup", 0, "[red]a", {}, 0.1, False))
        listener(StepFinished("m", {}))
        listener(MethodFinished("m", {}))


class TestLines:
    def test_a_line_comes_while_a_batch_takes_long_and_none_after_the_end(self) -> None:
        to = console()
        listener = ProgressListener(to, Lines(to, SOON))
        stream(listener, finished=False)
        told = "m warmup: 0 of 2 clients done; [red]a batch 1 of 4, loss 0.500; about "
        assert eventually(lambda: to.export_text(clear=False).count(told) > 1)
        assert to.export_text(clear=False).startswith("m: begins\n")
        listener.close()
        time.sleep(5 * SOON)
        before = to.export_text(clear=False)
        time.sleep(5 * SOON)
        assert to.export_text(clear=False) == before
        listener.close()

    def test_waiting_is_said_at_once_and_again(self) -> None:
        to = console()
        lines = Lines(to, SOON)
        lines.waits("r: loading")
        assert to.export_text(clear=False) == "r: loading\n"
        assert eventually(lambda: "r: loading: 0 s so far" in to.export_text(clear=False))
        lines.close()

    def test_a_line_comes_every_half_minute(self) -> None:
        assert bars.EVERY == 30 == Lines(console()).every


class Tqdm:
    """Replaces ``tqdm.auto.tqdm``: what was asked of it."""

    def __init__(self, **how: Any) -> None:
        self.n, self.total, self.said = how["initial"], how["total"], [how["desc"]]
        self.closed = False

    def set_description(self, text: str) -> None:
        self.said.append(text)

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        self.said.append(text)

    def update(self, by: float) -> None:
        self.n += by

    def close(self) -> None:
        self.closed = True


def test_a_notebook_has_one_bar_over_the_steps_of_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tqdm] = []
    monkeypatch.setattr("tqdm.auto.tqdm", lambda **how: made.append(Tqdm(**how)) or made[-1])
    listener = ProgressListener(console(), NotebookBar(console()))
    stream(listener, finished=False)
    (bar,) = made
    # One of four batches of one of two clients: an eighth of the first of two steps.
    assert (bar.n, bar.total, bar.closed) == (0.125, 2, False)
    assert bar.said == ["m", "m warmup", "[red]a 1/4 loss 0.500"]
    listener(StepFinished("m", {}))
    assert bar.n == 1.0
    listener(MethodFinished("m", {}))
    assert bar.closed
    stream(listener)
    assert len(made) == 2


def test_without_widgets_a_notebook_has_a_bar_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    stream(ProgressListener(console(), NotebookBar(console())))
    assert "m warmup" in capsys.readouterr().err


def test_every_console_has_what_suits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(bars_on(console(terminal=True)), LiveBars)
    assert isinstance(bars_on(console()), Lines)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(bars_on(console(terminal=True)), Lines)
    notebook = console()
    notebook.is_jupyter = True
    assert isinstance(bars_on(notebook), NotebookBar)


def test_on_a_terminal_waiting_ends_where_a_method_begins() -> None:
    to = console(terminal=True)
    live = LiveBars(to)
    live.waits("[red]r: loading")
    stream(ProgressListener(to, live))
    live.close()
    assert live._status is None and live._progress is None
    assert "[red]r: loading" in to.export_text()
