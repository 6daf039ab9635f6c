"""What a node writes of its own model: the model that one process has for the same client, head and all."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small import EVERY, FinishedRuns, own_rows, small_run, small_settings, tensors_of

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.nodes import comparable, grid_of, kind_of, over_memory
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import fedlease
import fedlease.peft_plugin  # registers FEDLEASE with PEFT
from fedlease.data.load import load_federation
from fedlease.errors import ConfigError, RunFolderError
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.methods.registry import METHODS
from fedlease.peft_plugin.folder import CONFIG, WEIGHTS
from fedlease.storage.run_files import RunFiles
from fedlease.use.export import Exporter
from fedlease.use.open_run import OpenRun
from fedlease.use.predict import predict

IDS = torch.arange(4, 24).view(2, 10)


def folder_of(state: Path, client: str, method: str) -> Path:
    """Where a node with ``state-dir`` writes."""
    (found,) = state.glob(f"*/{client}/model/{method}")
    return found


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def by_peft(base: Path, folder: Path, labels: int | None) -> PeftModel:
    """As somebody without our loader reads it."""
    auto: Any = AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
    # The tiny base has a head of its own, for two labels.
    extra = {} if labels is None else {"num_labels": labels, "ignore_mismatched_sizes": True}
    return PeftModel.from_pretrained(auto.from_pretrained(base, **extra), str(folder)).eval()


@pytest.mark.slow
def test_every_methods_tensors_scores_and_own_models_are_those_of_one_process(
    finished: FinishedRuns, tmp_path: Path
) -> None:
    here, state, others = finished(**EVERY), tmp_path / "state", sorted(METHODS.keys() - {"fedlease"})
    settings = small_settings(**{**EVERY, "baselines": others})
    summaries, _ = over_memory(settings, tmp_path / "there", **{"state-dir": str(state)})
    kinds = set[tuple[str, str | None]]()
    for method in METHODS:
        folder = Path() if method == "fedlease" else Path("baselines", method)
        assert tensors_of(tmp_path / "there" / folder) == tensors_of(here.out / folder), method
        # The verdict is of all methods, and nodes pool no rows.
        mine, theirs = ({**comparable(of[method]), "verdict": None} for of in (summaries, here.summaries))
        assert mine == theirs, method
        first, last = (folder_of(state, client, method) for client in ("planted-0-0", "planted-3-0"))
        assert (first / WEIGHTS).read_bytes() != (last / WEIGHTS).read_bytes(), "one folder for all is found out"
        expected, model = fedlease.load(here.out, "planted-3-0", method), fedlease.load(last)
        assert not model.training
        assert torch.equal(logits(model), logits(expected)), method
        assert model.config.id2label == expected.config.id2label
        config = json.loads((last / CONFIG).read_text())
        if (kind := (config["peft_type"], config.get("mixer"))) not in kinds:
            kinds.add(kind)
            plain = by_peft(here.out / "base", last, len(model.config.id2label))
            assert torch.equal(logits(plain), logits(expected)), method
    assert len(kinds) > 5, "PEFT has read every kind of adapter"
    assert not list(state.rglob("*.tmp"))


@pytest.mark.parametrize("head", ["shared", "frozen"])
def test_shared_and_frozen_heads_are_those_of_one_process(head: str, tmp_path: Path) -> None:
    rows, others = own_rows(tmp_path / "rows"), ["fedit", "fedsa-lora"] if head == "shared" else ["fedit"]
    settings: dict[str, Any] = {
        "head": head,
        "baselines": others,
        "data.source": "folder",
        "data.path": str(rows),
        "data.train_rows": None,
        "data.test_rows": None,
    }
    small_run(tmp_path / "here", **settings)
    of_node = {"state-dir": str(tmp_path / "s"), "data-folders": str(rows), "uploads": "A,B,G,head"}
    over_memory(small_settings(**settings), tmp_path / "there", hand_over=False, **of_node)
    for method in ("fedlease", *others):
        folder = Path() if method == "fedlease" else Path("baselines", method)
        there, here = (tensors_of(tmp_path / place / folder)["state"] for place in ("there", "here"))
        assert there == here, method
        for client in ("one", "four"):
            model = fedlease.load(folder_of(tmp_path / "s", client, method))
            assert torch.equal(logits(model), logits(fedlease.load(tmp_path / "here", client, method)))
            assert model.config.id2label == {0: "no", 1: "yes"}


def test_text_generation(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"task": "generation", "baselines": ["fedit"], "data.max_tokens": 48, "rounds": 1}
    settings |= {"generation.max_new_tokens": 3, "data.test_rows": 4}
    here = small_run(tmp_path / "here", **settings)
    there, _ = over_memory(small_settings(**settings), tmp_path / "there", **{"state-dir": str(tmp_path / "s")})
    assert tensors_of(tmp_path / "there") == tensors_of(tmp_path / "here")
    assert comparable(there["fedlease"]) == comparable(here.summary)
    samples = [json.loads((tmp_path / place / "samples.json").read_text()) for place in ("here", "there")]
    assert samples[0] == samples[1] and samples[0]
    for method in ("fedlease", "fedit"):
        folder = folder_of(tmp_path / "s", "planted-0-0", method)
        expected = logits(fedlease.load(tmp_path / "here", "planted-0-0", method))
        assert torch.equal(logits(fedlease.load(folder)), expected)
        assert torch.equal(logits(by_peft(tmp_path / "here" / "base", folder, None)), expected)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, in ``here``; nodes of the same run, in ``there`` and ``state``."""
    out = tmp_path_factory.mktemp("own")
    settings = small_settings(baselines=["fedit"], data__clients_per_task=1)
    small_run(out / "here", baselines=["fedit"], data__clients_per_task=1)
    over_memory(settings, out / "there", hand_over=False, **{"state-dir": str(out / "state")})
    return out


def test_the_folder_serves_as_a_run_folder_of_one_client(run: Path, tmp_path: Path) -> None:
    folder = folder_of(run / "state", "planted-1-0", "fedlease")
    with pytest.raises(RunFolderError, match="on its own machine"):
        fedlease.load(run / "there", "planted-1-0")
    own, whole = OpenRun(folder), OpenRun(run / "here")
    settings = small_settings(data__clients_per_task=1)
    rows = load_federation(settings.data, settings.seed, settings.task).clients["planted-1-0"].test
    assert predict(own, "planted-1-0", rows) == predict(whole, "planted-1-0", rows)
    assert fedlease.tokenizer(folder)("a b").input_ids == fedlease.tokenizer(run / "here")("a b").input_ids
    assert Exporter(own, scores=False).client("planted-1-0", tmp_path / "x").is_dir()
    with pytest.raises(ConfigError, match="does not state where the rows of 'planted-1-0' are: use --no-scores"):
        Exporter(own).client("planted-1-0", tmp_path / "y")
    with pytest.raises(ConfigError, match="'planted-0-0'"):
        own.client("planted-0-0")
    with pytest.raises(ConfigError, match=r"client: name one, the run has \['planted-0-0'"):
        fedlease.load(run / "here")


def test_the_card_and_the_scores_are_in_the_folder(run: Path) -> None:
    folder = folder_of(run / "state", "planted-1-0", "fedlease")
    theirs = json.loads((run / "here" / "summary.json").read_text())["per_client"]["planted-1-0"]
    assert json.loads((folder / "summary.json").read_text())["per_client"] == {"planted-1-0": theirs}
    card = (folder / "README.md").read_text()
    assert (
        "adapters" in card and "its only" not in card and "import fedlease.peft_plugin" in card and "folded" not in card
    )
    plain = (folder_of(run / "state", "planted-1-0", "fedit") / "README.md").read_text()
    assert "its only adapter" in plain and "peft_plugin" not in plain


def test_every_method_has_a_folder_and_no_client_has_anothers(run: Path) -> None:
    found = sorted(path.relative_to(run / "state") for path in (run / "state").glob("*/*/model/*"))
    assert {path.name for path in found} == {"fedlease", "fedit"} and len(found) == 8
    for path in found:
        assert list(OpenRun(run / "state" / path).clients) == [path.parts[1]]


def test_a_damaged_model_is_refused(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(folder_of(run / "state", "planted-0-0", "fedlease"), folder)
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(RunFolderError, match=r"adapter_model\.safetensors is damaged, or was changed: its SHA-256"):
        fedlease.load(folder)
    RunFiles(folder).write("adapter_model.safetensors", b"x")
    with pytest.raises(RunFolderError, match="the model in it is damaged"):
        fedlease.load(folder)


SHORT: dict[str, Any] = {"method": "local", "baselines": [], "rounds": 1, "data.clients_per_task": 1}


def finished(tmp_path: Path, of_node: dict[str, str], **changes: Any) -> dict[str, Any]:
    """The summary of a run in which one node is configured otherwise than the others."""
    settings = small_settings(**{**SHORT, **changes})
    grid = grid_of(settings)
    grid.contexts[900].node_config.update(of_node)
    strategy = FedLeaseStrategy(settings, tmp_path / "there")
    strategy.start(grid)
    summary = strategy.summaries["local"]
    return {**summary, "warnings": of_clients(summary["warnings"])}


def of_clients(warnings: list[str]) -> list[str]:
    """Those that are about machines: what a tiny random model never predicts is another matter."""
    return [warning for warning in warnings if not warning.startswith("never predicted")]


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> None:
        raise AssertionError("a node without a folder writes no model")

    monkeypatch.setattr("fedlease.flower.node.write_own_model", never)
    assert finished(tmp_path, {})["warnings"] == []
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_it_is_written_where_the_node_says_and_replaces_an_earlier_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for rounds in (1, 2):
        with caplog.at_level(logging.INFO, "flwr"):
            out = tmp_path / str(rounds)
            own = {"model-out": str(tmp_path / "model"), "state-dir": str(tmp_path / "state")}
            assert finished(out, own, rounds=rounds)["warnings"] == []
        assert f"the model of planted-0-0 is in {tmp_path / 'model' / 'local'}" in caplog.text
        small_run(out / "here", **{**SHORT, "rounds": rounds})
        expected = fedlease.load(out / "here", "planted-0-0")
        assert torch.equal(logits(fedlease.load(tmp_path / "model" / "local")), logits(expected))
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["local"]
    assert not list((tmp_path / "state").glob("*/*/model"))


@pytest.mark.parametrize("what", ["file", "stranger", "other client"])
def test_what_cannot_be_written_is_a_warning_and_costs_no_score(
    what: str, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model"
    if what == "file":
        model.write_text("in the way")
    elif what == "stranger":
        (model / "local").mkdir(parents=True)
        (model / "local" / "bin").write_text("somebody's")
    else:
        shutil.copytree(folder_of(run / "state", "planted-1-0", "fedit"), model / "local")
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    summary = finished(tmp_path, {"model-out": str(model)})
    assert len(summary["per_client"]) == 4
    assert summary["warnings"] == [
        "client 'planted-0-0': could not write its own model on its machine; its log says why"
    ]
    assert f"could not be written to {model / 'local'}: " in caplog.text
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before
    assert model.is_file() or [path.name for path in model.iterdir()] == ["local"]


def test_a_write_that_breaks_off_leaves_the_earlier_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"model-out": str(tmp_path / "model")}
    finished(tmp_path / "1", own)
    before = {path: path.read_bytes() for path in (tmp_path / "model").rglob("*") if path.is_file()}

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedlease.peft_plugin.folder.write_atomically", full)
    assert len(finished(tmp_path / "2", own, rounds=2)["warnings"]) == 1
    assert {path: path.read_bytes() for path in (tmp_path / "model").rglob("*") if path.is_file()} == before


def test_a_node_that_lost_its_private_tensors_writes_its_model_all_the_same(tmp_path: Path) -> None:
    """Under FedDPA it goes on from B = 0 in every module, one tensor in the message."""
    settings = small_settings(method="feddpa", baselines=[], rounds=1, data__clients_per_task=1)
    state = tmp_path / "state"
    grid = grid_of(settings, **{"state-dir": str(state)})

    def lose(message: Any, reply: Any) -> Any:
        if kind_of(message) == "train.dual":
            for path in state.glob("*/planted-0-0/feddpa.safetensors"):
                path.unlink()
        return reply

    grid.faults.append(lose)
    strategy = FedLeaseStrategy(settings, tmp_path / "there")
    strategy.start(grid)
    summary = strategy.summaries["feddpa"]
    assert len(summary["per_client"]) == 4
    (warning,) = of_clients(summary["warnings"])
    assert warning.startswith("client 'planted-0-0': has lost its private tensors")
    assert fedlease.load(folder_of(state, "planted-0-0", "feddpa")) is not None
