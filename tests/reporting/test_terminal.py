"""What a person sees, from a made-up stream of events: numbers, hostile names as text, missing values."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from reporting.made_up import HOSTILE, console, summary

from fedlease.config.settings import resolve
from fedlease.core.types import Allocation
from fedlease.reporting.terminal import Terminal
from fedlease.server.events import (
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


def events(silhouettes: dict[int, float], **changes: object) -> Iterator[Event]:
    clients = (HOSTILE, "b")
    settings = {**resolve(preset="smoke", overrides=changes).model_dump(mode="json"), "threads": 2, "device": "cpu"}
    tasks = {HOSTILE: "[bold]t[/]", "b": "u"}
    rows = dict.fromkeys(clients, 8)
    yield RunStarted(Path("/runs/[red]r[/red]"), settings, tasks, rows, rows, ("odd [blue]row[/blue]",), False)
    yield MethodStarted("fedlease", 1, 0)
    yield StepStarted("fedlease", "warmup", 0, clients)
    yield BatchTrained("fedlease", HOSTILE, 1, 1, 0.5)
    yield ClientFinished("fedlease", "warmup", 0, HOSTILE, {"loss": 0.5}, 0.1, False)
    yield UpdateRefused("fedlease", "warmup", 0, HOSTILE, "loss is [green]nan[/green]")
    distances = np.array([[0.0, 1.0], [1.0, 0.0]])
    assignment = {HOSTILE: 0, "b": 1} if silhouettes else {HOSTILE: 0, "b": 0}
    yield Allocated("fedlease", Allocation(1 + bool(silhouettes), assignment, silhouettes, distances, clients, ()))
    record = {
        "method": "fedlease",
        "phase": "warmup",
        "round": 0,
        "mean_score": 0.518,
        "averaged": 2,
        "num_clients": 3,
        "clients": {HOSTILE: {"loss": 0.5, "score": 0.5}, "b": {"loss": 1.0, "score": 0.5}},
        "bytes_up": 1234,
        "seconds": {"step": 2.0},
    }
    yield StepFinished("fedlease", record)
    yield StepFinished("fedlease", {**record, "phase": "experts", "round": 1, "mean_score": None, "clients": {}})
    summed = {"phase": "start", "mean_score": None, "clients": {"b": {}}}
    yield StepFinished("fedlease", {**record, **summed})
    yield MethodFinished("fedlease", summary())
    yield RunFinished(Path("/runs/[red]r[/red]"), {"fedlease": summary(), "local": summary(own=None)})


def shown(silhouettes: dict[int, float], *, terminal: bool, models_here: bool = True, **changes: object) -> str:
    to = console(terminal=terminal)
    listener = Terminal(to, models_here=models_here)
    for event in events(silhouettes, **changes):
        listener(event)
    listener.close()
    return to.export_text()


@pytest.mark.parametrize("terminal", [False, True])
def test_every_name_from_the_data_is_shown_as_text_and_never_read_as_markup(terminal: bool) -> None:
    text = shown({2: 0.25}, terminal=terminal)
    for literal in (
        "Run folder: /runs/[red]r[/red]",
        "note odd [blue]row[/blue]",
        "refused [red]x in warmup round 0: loss is [green]nan[/green]",
        "[bold]t[/] x 1",
        "50.0 [red]x",
    ):
        assert literal in text
    assert "\\[" not in text


@pytest.mark.parametrize("terminal", [False, True])
def test_steps_are_one_line_each_and_a_score_nobody_took_is_a_dash(terminal: bool) -> None:
    # On a terminal, a line may follow what is left of a bar that was drawn over.
    lines = [line.rstrip() for line in shown({2: 0.25}, terminal=terminal).splitlines()]
    # losses 0.5 and 1.0 have the mean 0.75
    for step in (
        "fedlease warmup: train loss 0.750 (2 of 3 clients), model received scores 51.8 (2 of 3 clients), 1.2 kB up, "
        "2.0 s",
        "fedlease experts 1: model received scores -, 1.2 kB up, 2.0 s",
        "fedlease start: 1.2 kB up, 2.0 s",
    ):
        assert [line.endswith(step) if terminal else line == step for line in lines].count(True) == 1


def test_a_run_that_scores_no_rounds_has_no_dash_for_them() -> None:
    unscored = {"task": "generation", "generation.score_rounds": False}
    lines = shown({2: 0.25}, terminal=False, **unscored).splitlines()
    assert "fedlease experts 1: 1.2 kB up, 2.0 s" in lines
    assert any("cpu, text generation, answers of at most" in line for line in lines)
    assert any(line.endswith("cpu, heads local") for line in shown({2: 0.25}, terminal=False).splitlines())


def test_only_where_it_is_no_terminal_a_line_says_that_a_method_begins() -> None:
    assert "fedlease: begins" in shown({2: 0.25}, terminal=False).splitlines()
    assert "fedlease: begins" not in shown({2: 0.25}, terminal=True)


def test_the_next_command_names_folder_and_client_as_python_strings() -> None:
    last = shown({2: 0.25}, terminal=False).splitlines()[-1]
    call = "fedlease.load('/runs/[red]r[/red]', '[red]x')"
    assert last == f'One model: python -c "import fedlease; print({call})"'


def test_silhouettes_are_listed_and_their_absence_is_said() -> None:
    assert "Silhouettes: 2 groups 0.250, 3 groups 0.125" in shown({2: 0.25, 3: 0.125}, terminal=False)
    assert "2 experts allocated" in shown({2: 0.25}, terminal=False)
    alone = shown({}, terminal=False)
    assert "Silhouettes: none" in alone
    assert "1 expert allocated" in alone


def test_groups_equal_to_the_tasks_agree_fully() -> None:
    # The adjusted Rand index of two equal partitions is 1.
    assert "2 experts for 2 tasks" in shown({2: 0.25}, terminal=False)
    assert "(adjusted Rand index): 1.00" in shown({2: 0.25}, terminal=False)


def test_where_models_are_elsewhere_nothing_is_said_that_would_load_one() -> None:
    text = shown({2: 0.25}, terminal=False, models_here=False)
    assert text.splitlines()[-1].startswith("Every client's model is on its own machine")
    assert "fedlease.load" not in text and "fedlease run" not in text


def test_closing_twice_or_before_any_event_is_allowed() -> None:
    to = console(terminal=True)
    listener = Terminal(to)
    listener.close()
    listener(MethodStarted("fedit", 1, 0))
    listener.close()
    listener.close()
    listener(BatchTrained("fedit", "b", 1, 1, 0.5))
    assert "step 1/1" not in to.export_text().splitlines()[-1:]
