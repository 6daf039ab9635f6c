"""The live bars: how many steps, how many are done; and that names cannot steer the terminal."""

from pathlib import Path

import pytest
from reporting.made_up import console, summary
from rich.progress import Task

from fedlease.reporting.bars import LiveBars
from fedlease.reporting.results import render_results
from fedlease.reporting.terminal import Terminal
from fedlease.server.events import ClientFinished, MethodStarted, StepFinished, StepStarted, UpdateRefused

CLIENTS = ("a", "b", "c", "d")


def steps(listener: Terminal) -> Task:
    """The bar over the steps of the method."""
    bars = listener.progress.bars
    assert isinstance(bars, LiveBars) and bars._progress is not None
    return bars._progress.tasks[0]


def record(round_: int) -> dict[str, object]:
    seconds = {"step": 1.0}
    step = {"method": "m", "phase": "p", "round": round_, "mean_score": 0.5, "clients": {}, "bytes_up": 0}
    return {**step, "averaged": 1, "num_clients": 1, "seconds": seconds}


@pytest.mark.parametrize(
    ("rounds", "done", "first", "total"),
    [
        (3, 0, 0, 4),  # a warm-up and rounds 1 .. 3
        (3, 0, 1, 3),  # no warm-up
        (3, 2, 2, 4),  # resumed after the warm-up and round 1
        (3, 1, 0, 5),  # a second wave of the warm-up
    ],
)
def test_the_bar_counts_the_steps_that_are_left(rounds: int, done: int, first: int, total: int) -> None:
    listener = Terminal(console(terminal=True))
    listener(MethodStarted("m", rounds, done))
    for number, round_ in enumerate(range(first, rounds + 1)):
        listener(StepStarted("m", "p", round_, CLIENTS))
        assert (steps(listener).completed, steps(listener).total) == (done + number, total)
        listener(ClientFinished("m", "p", round_, "a", {}, 0.1, False))
        # One client of four.
        assert steps(listener).completed == done + number + 0.25
        listener(StepFinished("m", record(round_)))
    assert steps(listener).completed == total
    listener.close()


def test_control_sequences_in_names_are_shown_and_not_obeyed() -> None:
    to = console()
    hostile = "a\x1b[2J\nb"
    Terminal(to)(UpdateRefused("m", "warmup", 0, hostile, "loss\ris nan"))
    (line,) = to.export_text().splitlines()
    assert line.replace("\N{REPLACEMENT CHARACTER}", "?") == "refused a?[2J?b in warmup round 0: loss?is nan"


def test_heads_have_rows_of_their_own_only_where_they_travel() -> None:
    to = console()
    render_results(Path("x"), {"fedit": summary()}, to)
    assert "heads up" not in to.export_text(clear=False)
    render_results(Path("x"), {"fedit": {**summary(), "head_bytes_up": 2_000, "head_bytes_down": 3_000}}, to)
    text = to.export_text()
    assert "2.0 kB" in text.split("heads up")[1].splitlines()[0]
    assert "3.0 kB" in text.split("heads down")[1].splitlines()[0]


def test_results_say_how_to_run_on_another_seed() -> None:
    to = console()
    render_results(Path("my runs/x"), {"fedlease": summary()}, to)
    assert "fedlease run 'my runs/x/config.yaml' --set seed=4" in to.export_text()
