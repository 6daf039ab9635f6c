"""``fedlease run --engine flower``: worker processes, one result."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from small import SMALL, rounds_of, small_run, small_settings, tensors_of
from typer.testing import CliRunner

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
pytest.importorskip("ray", reason="ray is not installed: pip install 'fedlease[simulation]'")

import psutil
from flower.nodes import Stopped, comparable, grid_of, kind_of, stop_after
from flwr.app import Error, Message

from fedlease.cli.main import app
from fedlease.config.settings import Settings
from fedlease.data.load import load_federation
from fedlease.errors import RunFailedError, RunFolderError
from fedlease.flower import simulation
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.runs.runner import resume
from fedlease.server.events import StepFinished
from fedlease.storage.run_files import RunFiles
from fedlease.use.load import load


def sets(**changes: Any) -> list[str]:
    values = {**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}}
    return [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]


@pytest.mark.slow  # Ray takes seconds to start
def test_a_simulation_gives_the_tensors_and_scores_of_one_process_though_a_worker_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    few: dict[str, Any] = {"rounds": 1}
    here = small_run(tmp_path / "here", **few)
    killed: list[int] = []

    def kill(event: Any) -> None:
        if not isinstance(event, StepFinished) or event.record["round"] != 0:
            return
        for process in psutil.Process().children(recursive=True):
            if "ClientAppActor" in " ".join(process.cmdline()) and not killed:
                killed.append(process.pid)
                os.kill(process.pid, signal.SIGKILL)

    real = simulation.simulate

    # One, so that what comes after it has nothing in memory of what its clients trained before.
    def simulate(settings: Settings, out: Path, listeners: Any = (), **_: Any) -> Any:
        return real(settings, out, [*listeners, kill], workers=1)

    monkeypatch.setattr(simulation, "simulate", simulate)
    command = ["run", "--preset", "smoke", *sets(**few), "--engine", "flower", "--quiet"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "there")])
    assert result.exit_code == 0, result.output
    assert killed and "raylet" not in result.output + capfd.readouterr().out
    assert tensors_of(tmp_path / "there") == tensors_of(tmp_path / "here")
    summary = json.loads((tmp_path / "there/summary.json").read_text())
    assert comparable(summary) == json.loads(json.dumps(comparable(here.summary)))
    assert not any(step["refused"] for step in rounds_of(tmp_path / "there"))
    assert not (tmp_path / "there/nodes").exists()
    # Everything that can be done with a run folder can be done with this one.
    assert load(tmp_path / "there", "planted-0-0") is not None
    again = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "there")])
    assert again.exit_code != 0 and isinstance(again.exception, RunFolderError)


def test_a_run_over_nodes_is_not_resumed_in_one_process(tmp_path: Path) -> None:
    settings = small_settings(baselines=[], data__clients_per_task=1)
    with pytest.raises(Stopped):
        FedLeaseStrategy(settings, tmp_path / "r", [stop_after(1)]).start(grid_of(settings))
    environment = json.loads((tmp_path / "r/environment.json").read_text())
    environment["data_fingerprint"] = load_federation(settings.data, settings.seed).fingerprint()
    RunFiles(tmp_path / "r").write_json("environment.json", environment)
    with pytest.raises(RunFolderError, match=r"keeps a part of its model on its own machine, so the run cannot go on"):
        resume(tmp_path / "r")


DIED = (
    "<class 'ray.exceptions.ActorDiedError'>:<'The actor died unexpectedly before finishing this task.\n"
    "The actor is dead because its worker process has died.'>"
)


@pytest.mark.parametrize("when", ["query.hello", "train.warmup", "train.experts", "evaluate.finish"])
def test_a_worker_that_dies_for_good_ends_the_run_and_is_no_clients_refusal(when: str, tmp_path: Path) -> None:
    settings = small_settings(baselines=[], rounds=1, data__clients_per_task=1)
    grid, broken = grid_of(settings, one_machine=True), [True]

    def die(message: Message, reply: Message) -> Message:
        fits = kind_of(message) == when and message.metadata.dst_node_id == 899
        return Message(Error(0, DIED), reply_to=message) if fits and broken else reply

    grid.faults.append(die)
    with pytest.raises(RunFailedError, match=r"a worker process of the simulation died.*fedlease resume") as caught:
        FedLeaseStrategy(settings, tmp_path / "r", hand_over=True).start(grid)
    assert "\n" not in str(caught.value)
    broken.clear()
    strategy = FedLeaseStrategy(settings, tmp_path / "r", hand_over=True)
    strategy.start(grid)
    assert strategy.summaries["fedlease"]["num_clients"] == 4
    steps = (tmp_path / "r/rounds.jsonl").read_text().splitlines()
    assert len(steps) == 2 and not any(json.loads(line)["refused"] for line in steps)


def test_only_a_simulation_takes_such_words_for_the_end_of_a_worker(tmp_path: Path) -> None:
    """A node elsewhere cannot end everyone's run by them."""
    settings = small_settings(baselines=[], rounds=2, data__clients_per_task=1)
    grid = grid_of(settings)
    grid.faults.append(
        lambda message, reply: (
            Message(Error(0, DIED), reply_to=message)
            if kind_of(message) == "train.experts" and message.metadata.dst_node_id == 899
            else reply
        )
    )
    strategy = FedLeaseStrategy(settings, tmp_path / "r")
    strategy.start(grid)
    assert strategy.summaries["fedlease"]["num_clients"] == 4
