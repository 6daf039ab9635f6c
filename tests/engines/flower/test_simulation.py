"""``fedlease run --engine flower``: worker processes, one result."""

import json
from pathlib import Path
from typing import Any

import pytest
from engines.small import SMALL, small_run, small_settings, tensors_of
from typer.testing import CliRunner

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
pytest.importorskip("ray", reason="ray is not installed: pip install 'fedlease[simulation]'")

from engines.flower.nodes import Stopped, grid_of, stop_after, told

from fedlease.cli import app
from fedlease.errors import RunFolderError
from fedlease.runner import resume


def sets(**changes: Any) -> list[str]:
    values = {**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}}
    return [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]


@pytest.mark.slow  # Ray takes seconds to start
def test_a_simulation_gives_the_tensors_and_scores_of_one_process(tmp_path: Path) -> None:
    from fedlease.use.load import load

    here = small_run(tmp_path / "here", baselines=[])
    command = ["run", "--preset", "smoke", *sets(baselines=[]), "--engine", "flower", "--quiet"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "there")])
    assert result.exit_code == 0, result.output
    assert tensors_of(tmp_path / "there") == tensors_of(tmp_path / "here")
    summary = json.loads((tmp_path / "there/summary.json").read_text())
    assert told(summary) == json.loads(json.dumps(told(here.summary)))
    assert not (tmp_path / "there/nodes").exists()
    # Everything that can be done with a run folder can be done with this one.
    assert load(tmp_path / "there", "planted-0-0") is not None
    again = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "there")])
    assert again.exit_code != 0 and isinstance(again.exception, RunFolderError)


def test_a_run_over_nodes_is_not_gone_on_with_in_one_process(tmp_path: Path) -> None:
    from fedlease.engines.flower.strategy import FedLeaseStrategy

    settings = small_settings(baselines=[])
    with pytest.raises(Stopped):
        FedLeaseStrategy(settings, tmp_path / "r", [stop_after(1)]).start(grid_of(settings))
    environment = json.loads((tmp_path / "r/environment.json").read_text())
    from fedlease.data import load_federation

    environment["data_fingerprint"] = load_federation(settings.data, settings.seed).fingerprint()
    (tmp_path / "r/environment.json").write_text(json.dumps(environment))
    with pytest.raises(RunFolderError, match=r"keeps a part of its model on its own machine, so the run cannot go on"):
        resume(tmp_path / "r")
