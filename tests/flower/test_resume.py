"""A run over nodes that was interrupted at its end, or begun elsewhere, is resumed as what it is, or refused."""

from pathlib import Path
from typing import Any

import pytest
from small import small_run, small_settings, tensors_of

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.nodes import Stopped, comparable, grid_of, over_memory, stop_after

from fedlease.errors import RunFolderError
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.runs import methods
from fedlease.storage.run_folder import read_clients
from fedlease.tasks.classification import Classification

SMALL: dict[str, Any] = {"baselines": [], "data.clients_per_task": 1}


def test_a_server_killed_after_private_tensors_were_handed_over_scores_the_same_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(**{**SMALL, "method": "local", "rounds": 1})
    grid = grid_of(settings, one_machine=True, **{"state-dir": str(tmp_path / "state")})

    def killed(*args: Any, **kwargs: Any) -> Any:
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(methods, "summarise", killed)
        FedLeaseStrategy(settings, tmp_path / "r", hand_over=True).start(grid)
    strategy = FedLeaseStrategy(settings, tmp_path / "r", hand_over=True)
    strategy.start(grid)
    undisturbed, _ = over_memory(settings, tmp_path / "there")
    assert comparable(strategy.summaries["local"]) == comparable(undisturbed["local"])
    assert tensors_of(tmp_path / "r") == tensors_of(tmp_path / "there")


def test_a_run_of_one_process_with_private_tensors_is_not_resumed_over_nodes(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        small_run(tmp_path / "r", [stop_after(1)], **SMALL)
    with pytest.raises(RunFolderError, match=r"private tensors of client 'planted-0-0' are in the run folder"):
        over_memory(small_settings(**SMALL), tmp_path / "r")


def test_cards_of_late_clients_are_on_disk_before_a_step_asks_them(tmp_path: Path) -> None:
    settings = small_settings(**SMALL, method="fedit")
    grid = grid_of(settings)
    late = grid.contexts[900].node_config
    grid.leave(900)

    def listener(event: Any) -> None:
        if type(event).__name__ == "StepFinished" and event.record["round"] == 1:
            grid.join(5, late)
        if type(event).__name__ == "StepStarted" and "planted-0-0" in event.clients:
            assert "planted-0-0" in read_clients(tmp_path / "r")
            raise Stopped

    with pytest.raises(Stopped):
        FedLeaseStrategy(settings, tmp_path / "r", [listener]).start(grid)


def test_nodes_of_one_process_score_no_model_twice_that_one_process_scores_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    inner = Classification.measure

    def measure(self: Any, *args: Any, **kwargs: Any) -> Any:
        counts.append(1)
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(Classification, "measure", measure)
    small_run(tmp_path / "here", **SMALL)
    here = len(counts)
    over_memory(small_settings(**SMALL), tmp_path / "there")
    assert len(counts) - here == here
