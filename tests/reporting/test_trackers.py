"""What is streamed is what the run folder holds."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from small import rounds_of, small_run

from fedlease.errors import ConfigError, RunFailedError
from fedlease.reporting import trackers
from fedlease.reporting.scalars import few_scalars, scalars
from fedlease.reporting.trackers import tracker
from fedlease.server.events import Event, MethodFinished, RunFinished, RunStarted, StepFinished
from fedlease.storage.environment import read_environment


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    events: list[Event] = []
    result = small_run(tmp_path_factory.mktemp("run") / "r", listeners=[events.append], baselines=["fedit"])
    return result.out, events


def found(events: list[Event]) -> dict[tuple[str, int], float]:
    values: dict[tuple[str, int], float] = {}
    for event in events:
        for name, value, step in scalars(event):
            assert (name, step) not in values, f"{name} is given twice for step {step}"
            values[name, step] = value
    return values


def test_every_figure_of_every_step_is_given_once(run: tuple[Path, list[Event]]) -> None:
    out, events = run
    values = found(events)
    for method, folder in (("fedlease", out), ("fedit", out / "baselines" / "fedit")):
        for record in rounds_of(folder):
            step = record["step"]
            assert values[f"{method}/mean_score", step] == record["mean_score"]
            assert values[f"{method}/mean_score_clients", step] == record["averaged"] == len(record["clients"])
            assert values[f"{method}/bytes_up", step] == record["bytes_up"]
            assert values[f"{method}/seconds/train", step] == record["seconds"]["train"]
            assert values[f"{method}/refused", step] == 0
            for client, row in record["clients"].items():
                assert values[f"{method}/loss/{client}", step] == row["loss"]
                assert values[f"{method}/score/{client}", step] == row["score"]
        summary = json.loads((folder / "summary.json").read_text())
        assert values[f"{method}/final/mean", 0] == summary["mean"]
        for key in ("mean", "majority_mean", "mean_macro_f1", "mean_mcc"):
            assert values[f"{method}/final/{key}", 0] == summary[key]
        for task, value in summary["per_task"].items():
            assert values[f"{method}/final/task/{task}", 0] == value
    allocation = json.loads((out / "allocation.json").read_text())
    for k, value in allocation["silhouettes"].items():
        assert values["fedlease/silhouette", int(k)] == value
    assert values["fedlease/num_experts", 0] == allocation["num_experts"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_event_files_hold_them(run: tuple[Path, list[Event]], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, events = run
    stream = tracker("tensorboard", tmp_path)
    for event in events:
        stream(event)
    stream.close()
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for (name, step), value in found(events).items():
        points = {point.step: point.value for point in read.Scalars(name.replace(" ", "_"))}
        assert points[step] == pytest.approx(value, rel=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_wandb_works_offline(run: tuple[Path, list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    _, events = run
    stream = tracker("wandb", tmp_path)
    for event in events:
        stream(event)
    stream.close()
    files = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 1
    # The file is a log of records in which names stand as they are; a process of wandb's own writes it.
    names = [b"fedlease/mean_score", b"fedit/final/mean"]
    deadline = time.monotonic() + 30
    while not all(name in files[0].read_bytes() for name in names):
        assert time.monotonic() < deadline, "the figures did not reach the file"
        time.sleep(0.2)


def test_a_step_without_scores_and_the_means_of_another_task_are_given_by_their_keys() -> None:
    record = {
        "step": 1, "mean_score": None, "clients": {"a": {"loss": 1.0}}, "bytes_up": 1, "bytes_down": 2,
        "head_bytes_up": 0, "head_bytes_down": 0, "seconds": {"step": 1.0}, "refused": {},
    }  # fmt: skip
    counts = {"num_clients": 3, "means_over": {"mean": 2, "mean_rougeL": 1}}
    summary = {"mean": 0.5, "mean_rougeL": 0.25, "per_task": {}, "expert_usage": {}, **counts}
    values = found([StepFinished("fedlease", record), MethodFinished("fedlease", summary)])
    assert values["fedlease/loss/a", 1] == 1.0
    assert values["fedlease/final/mean_rougeL", 0] == 0.25
    assert values["fedlease/final/clients", 0] == 3
    assert (values["fedlease/final/clients_in/mean", 0], values["fedlease/final/clients_in/mean_rougeL", 0]) == (2, 1)
    assert not any("score" in name for name, _ in values)


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="log: must be one of mlflow, tensorboard, wandb, received 'csv'"):
        tracker("csv", tmp_path)


def test_wandb_without_a_key_is_one_sentence_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    home = tmp_path / "home"
    home.mkdir()
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("NETRC", str(home / "none"))
    import wandb

    wandb.teardown()  # what an earlier test of this process has set up
    out = tmp_path / "run"
    expected = "no key of Weights & Biases is found; run wandb login first, or set WANDB_MODE=offline"
    with pytest.raises(ConfigError, match=expected):
        tracker("wandb", out)
    assert not out.exists()
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ConfigError, match="--log wandb cannot start: ") as caught:
        tracker("wandb", out)
    assert "\n" not in str(caught.value) and not out.exists()
    wandb.teardown()


def test_a_tracker_that_finds_something_else_in_its_place_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    (tmp_path / "tensorboard").write_text("mine")
    with pytest.raises(ConfigError, match=r"--log tensorboard: .*/tensorboard is no folder"):
        tracker("tensorboard", tmp_path)
    assert (tmp_path / "tensorboard").read_text() == "mine"


def test_settings_of_wandb_in_a_run_folder_are_not_followed(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nbase_url = https://elsewhere.example\n")
    with pytest.raises(ConfigError, match=r"wandb/settings would change where figures go"):
        tracker("wandb", tmp_path)


def test_a_tracker_that_fails_ends_the_run_in_one_sentence(
    run: tuple[Path, list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, library: object, out: Path) -> None:
            pass

        def __call__(self, event: Event) -> None:
            raise ValueError("first line\nsecond line")

        def close(self) -> None:
            raise ValueError("closed")

    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", (Broken, "json"))
    stream = tracker("tensorboard", tmp_path / "r")
    with pytest.raises(RunFailedError) as caught:
        stream(run[1][0])
    assert str(caught.value) == (
        f"--log tensorboard failed: ValueError first line\N{REPLACEMENT CHARACTER}second line; go on with: "
        f"fedlease resume {tmp_path / 'r'}"
    )
    stream.close()


class FakeMlflow:
    """The part of MLflow's client that is used, in memory."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, SimpleNamespace] = {}

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        return self.experiments.setdefault(name, str(len(self.experiments)))

    def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> SimpleNamespace:
        run = SimpleNamespace(tags=tags, name=run_name, metrics=[], params={}, files={}, status="RUNNING")
        self.runs[str(len(self.runs))] = run
        return SimpleNamespace(info=SimpleNamespace(run_id=str(len(self.runs) - 1)))

    def search_runs(self, experiments: list[str], filter_string: str, max_results: int) -> list[SimpleNamespace]:
        wanted = filter_string.split("'")[1]
        found = [name for name, run in self.runs.items() if run.tags["fedlease.run"] == wanted]
        return [SimpleNamespace(info=SimpleNamespace(run_id=name)) for name in found[:max_results]]

    def update_run(self, run: str, status: str) -> None:
        self.runs[run].status = status

    set_terminated = update_run

    def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
        self.runs[run].metrics += [(metric.key, metric.step, metric.value) for metric in metrics]
        self.runs[run].params.update({param.key: param.value for param in params})

    def log_dict(self, run: str, content: dict[str, Any], name: str) -> None:
        self.runs[run].files[name] = content


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    fake, module = FakeMlflow(), ModuleType("mlflow")
    entities = SimpleNamespace(
        Metric=lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step),
        Param=lambda key, value: SimpleNamespace(key=key, value=value),
    )
    vars(module).update(MlflowClient=lambda: fake, entities=entities)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return fake


def test_mlflow_has_a_handful_of_names_per_method(run: tuple[Path, list[Event]], mlflow: FakeMlflow) -> None:
    out, events = run
    stream = tracker("mlflow", out)
    for event in events:
        stream(event)
    stream.close()
    (there,) = mlflow.runs.values()
    assert list(mlflow.experiments) == ["fedlease"] and (there.name, there.status) == (out.name, "FINISHED")
    assert there.tags["fedlease.run"] == read_environment(out).run and len(there.tags) == 2
    assert there.params["method"] == "fedlease" and there.params["clients"] == "4" and len(there.params) <= 12
    assert there.files["settings.json"]["lora"]["r"] == 4
    names = {name for name, _, _ in there.metrics}
    assert not [client for client in json.loads((out / "clients.json").read_text()) if client in " ".join(names)]
    for method in ("fedlease", "fedit"):
        assert 8 <= len([name for name in names if name.startswith(f"{method}/")]) <= 16
    summary = json.loads((out / "summary.json").read_text())
    assert ("fedlease/final/mean", 0, summary["mean"]) in there.metrics
    record = rounds_of(out)[-1]
    losses = [row["loss"] for row in record["clients"].values()]
    assert ("fedlease/train_loss", record["step"], sum(losses) / len(losses)) in there.metrics


def test_a_resumed_run_goes_on_in_its_run_of_mlflow(run: tuple[Path, list[Event]], mlflow: FakeMlflow) -> None:
    out, events = run
    start = next(event for event in events if isinstance(event, RunStarted))
    stream = tracker("mlflow", out)
    stream(start)
    stream.close()
    assert [there.status for there in mlflow.runs.values()] == ["FAILED"]
    stream = tracker("mlflow", out)
    stream(replace(start, resumed=True))
    assert [there.status for there in mlflow.runs.values()] == ["RUNNING"]
    stream(RunFinished(out, {}))
    stream.close()
    assert [there.status for there in mlflow.runs.values()] == ["FINISHED"]


def test_a_store_that_mlflow_cannot_use_is_one_sentence(
    mlflow: FakeMlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise OSError("no such server\nsecond line")

    monkeypatch.setattr(mlflow, "get_experiment_by_name", broken)
    with pytest.raises(ConfigError) as caught:
        tracker("mlflow", tmp_path / "r")
    assert caught.value.faults == (
        "--log mlflow cannot start: no such server; MLFLOW_TRACKING_URI names the server or the database",
    )
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_real_mlflow_has_the_figures(
    run: tuple[Path, list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'fedlease[mlflow]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    out, events = run
    stream = tracker("mlflow", out)
    for event in events:
        stream(event)
    stream.close()
    client = mlflow.MlflowClient()
    (there,) = client.search_runs([client.get_experiment_by_name("fedlease").experiment_id])
    assert (there.info.run_name, there.info.status) == (out.name, "FINISHED")
    for name, value, step in (figure for event in events for figure in few_scalars(event)):
        assert (step, value) in [
            (point.step, point.value) for point in client.get_metric_history(there.info.run_id, name)
        ]
