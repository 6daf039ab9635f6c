"""A run is itself, whatever its settings: what a node keeps for one run no other run takes up."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import rounds_of, small_run, small_settings

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.hostile import asked_of, recorded
from flower.nodes import Stopped, grid_of, stop_after

from fedlease.client.messages import Refused
from fedlease.errors import ConfigError, RunFolderError
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.storage.environment import read_environment
from fedlease.storage.run_files import RunFiles

SETTINGS: dict[str, Any] = {"data.clients_per_task": 1, "baselines": [], "rounds": 3}


def state_of(out: Path) -> Any:
    return json.loads((out / "state/manifest.json").read_text())["state"]


def notes_of(out: Path) -> set[str]:
    return {note for r in rounds_of(out) for e in r["clients"].values() for note in e.get("notes", ())}


def test_a_run_between_an_interruption_and_its_going_on_changes_nothing(tmp_path: Path) -> None:
    settings = small_settings(**SETTINGS)
    grid = grid_of(settings, **{"state-dir": str(tmp_path / "state")})
    with pytest.raises(Stopped):
        FedLeaseStrategy(settings, tmp_path / "first", [stop_after(1)]).start(grid)
    FedLeaseStrategy(settings, tmp_path / "second").start(grid)
    FedLeaseStrategy(settings, tmp_path / "first").start(grid)
    assert state_of(tmp_path / "first") == state_of(tmp_path / "second")
    losses = [
        [{c: e["loss"] for c, e in r["clients"].items()} for r in rounds_of(tmp_path / out)]
        for out in ("first", "second")
    ]
    assert losses[0] == losses[1] and notes_of(tmp_path / "first") == set()
    runs = {read_environment(tmp_path / out).run for out in ("first", "second")}
    assert len(runs) == 2 and {path.name for path in (tmp_path / "state").iterdir() if path.is_dir()} == runs


def test_in_memory_too(tmp_path: Path) -> None:
    """A node without a state-dir has one place per method: the other run took it, and a note says so."""
    settings = small_settings(**SETTINGS)
    grid = grid_of(settings)
    with pytest.raises(Stopped):
        FedLeaseStrategy(settings, tmp_path / "first", [stop_after(1)]).start(grid)
    FedLeaseStrategy(settings, tmp_path / "second").start(grid)
    FedLeaseStrategy(settings, tmp_path / "first").start(grid)
    assert notes_of(tmp_path / "first") == {
        "found tensors of another run or client in its place, and continued from what the server sent"
    }
    assert notes_of(tmp_path / "second") == set()


@pytest.mark.parametrize("whose", ["run", "client"])
def test_what_was_copied_from_another_place_is_not_taken_up(whose: str, tmp_path: Path) -> None:
    settings = small_settings(**SETTINGS)
    state = tmp_path / "state"
    grid = grid_of(settings, **{"state-dir": str(state)})
    with pytest.raises(Stopped):
        FedLeaseStrategy(settings, tmp_path / "first", [stop_after(1)]).start(grid)
    mine = state / read_environment(tmp_path / "first").run / "planted-0-0"
    if whose == "run":
        FedLeaseStrategy(settings, tmp_path / "second").start(grid)
        other = state / read_environment(tmp_path / "second").run / "planted-0-0"
    else:
        other = mine.with_name("planted-1-0")
    shutil.copy(other / "fedlease.safetensors", mine / "fedlease.safetensors")
    FedLeaseStrategy(settings, tmp_path / "first").start(grid)
    last = rounds_of(tmp_path / "first")
    notes = {(r["round"], c): e["notes"] for r in last for c, e in r["clients"].items() if "notes" in e}
    assert notes == {
        (2, "planted-0-0"): [
            "found tensors of another run or client in its place, and continued from what the server sent"
        ]
    }


def test_every_message_carries_the_identity_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_settings(**{**SETTINGS, "baselines": ["fedit"], "clients_per_round": 2})
    grid = grid_of(settings)
    found = recorded(monkeypatch, "planted-0-0")
    with pytest.raises(Stopped):
        FedLeaseStrategy(settings, tmp_path / "r", [stop_after(1)]).start(grid)
    run = read_environment(tmp_path / "r").run
    FedLeaseStrategy(settings, tmp_path / "r").start(grid)
    assert re.fullmatch("[0-9a-f]{32}", run) and read_environment(tmp_path / "r").run == run
    assert {value.run for _, value in found} == {run}
    phases = {value.request.task.phase for kind, value in found if kind == "train.task"}
    assert phases == {"warmup", "experts", "federated"} and found[-1][0] == "evaluate.finish"
    for value in (None, 7, "", "../x", run.upper(), run + "0"):
        answer = asked_of(grid, 900, replace(found[-1][1], run=value))
        assert isinstance(answer, Refused) and answer.reason != ""


def test_every_engine_gives_a_run_an_identity(tmp_path: Path) -> None:
    found = []
    for out in ("one", "two"):
        small_run(tmp_path / out, method="local", rounds=1, baselines=[], data__clients_per_task=1)
        found.append(read_environment(tmp_path / out).run)
    assert found[0] != found[1]


def test_a_run_folder_without_it_is_not_resumed(tmp_path: Path) -> None:
    settings = small_settings(**SETTINGS)
    grid = grid_of(settings)
    with pytest.raises(Stopped):
        FedLeaseStrategy(settings, tmp_path / "r", [stop_after(0)]).start(grid)
    environment = json.loads((tmp_path / "r/environment.json").read_text())
    without = {name: value for name, value in environment.items() if name != "run"}
    for damaged, fault in (
        (without, "run is missing"),
        ({**without, "run": "../x"}, "run string should match pattern"),
    ):
        RunFiles(tmp_path / "r").write_json("environment.json", damaged)
        with pytest.raises(RunFolderError, match=fault):
            FedLeaseStrategy(settings, tmp_path / "r").start(grid)


def test_a_node_stores_the_state_of_so_many_runs_and_deletes_none_by_itself(tmp_path: Path) -> None:
    settings = small_settings(**{**SETTINGS, "method": "local", "rounds": 0})
    grid = grid_of(settings, **{"state-dir": str(tmp_path / "state"), "max-runs": 2})
    for out in ("1", "2"):
        FedLeaseStrategy(settings, tmp_path / out).start(grid)
    with pytest.raises(ConfigError, match="refused by its node's rule max-runs; the log of its node"):
        FedLeaseStrategy(settings, tmp_path / "3").start(grid)
    assert len([path for path in (tmp_path / "state").iterdir() if path.is_dir()]) == 2
    shutil.rmtree(tmp_path / "state" / read_environment(tmp_path / "1").run)
    FedLeaseStrategy(settings, tmp_path / "3").start(grid)
