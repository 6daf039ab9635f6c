"""A base that has changed since the run is refused wherever the run is used, and a missing pooler is kept with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import edit, flip, save_checkpoint
from flower.nodes import over_memory
from peft import PeftModel
from small import own_rows, small_run, small_settings
from transformers import AutoModelForSequenceClassification

import fedlease
from fedlease.data.load import load_federation
from fedlease.errors import InputError, RunFolderError
from fedlease.runs.runner import resume
from fedlease.use.chat import Chat
from fedlease.use.export import Exporter
from fedlease.use.onboard import onboard
from fedlease.use.open_run import OpenRun
from fedlease.use.predict import predict
from fedlease.use.serving.mixed import MixedModel

CHANGED = "the base model in .* is no longer the one that the run was trained on: "


class Trained:
    """A run on a base of its own, in a folder that may be changed."""

    def __init__(self, folder: Path, name: str, **changes: Any) -> None:
        self.base = save_checkpoint(folder / "base-model", name)
        self.rows = own_rows(folder / "data")
        self.settings = {"model": str(self.base), "data__path": str(self.rows), "baselines": [], **changes}
        self.out = small_run(folder / "r", **self.settings).out


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    return Trained(tmp_path, "roberta", warmup__epochs=1, rounds=1)


def uses(trained: Trained, out: Path) -> dict[str, Callable[[], object]]:
    return {
        "predict": lambda: predict(OpenRun(out), "one", []),
        "load": lambda: fedlease.load(out, "one"),
        "export": lambda: Exporter(OpenRun(out)).client("one", out.parent / "x"),
        "onboard": lambda: onboard(OpenRun(out), "five", trained.rows / "one", epochs=1),
        "serve": lambda: MixedModel.of_run(OpenRun(out)),
    }


def test_every_use_refuses_other_weights(trained: Trained) -> None:
    calls = uses(trained, trained.out)
    flip(trained.base / "model.safetensors")
    for name, call in calls.items():
        with pytest.raises(RunFolderError, match=CHANGED + "model.safetensors changed"):
            call()
        assert not (trained.out.parent / "x").exists(), name
    assert fedlease.tokenizer(trained.out)  # is the same
    with pytest.raises(InputError, match="no such folder"):
        shutil.rmtree(trained.base)
        fedlease.load(trained.out, "one")


def test_a_tokenizer_that_changed_is_refused(trained: Trained) -> None:
    edit(trained.base / "tokenizer_config.json", padding_side="left")
    for call in (lambda: fedlease.tokenizer(trained.out), lambda: fedlease.load(trained.out, "one")):
        with pytest.raises(RunFolderError, match=CHANGED + "tokenizer_config.json"):
            call()


def test_chat_refuses_another_base(tmp_path: Path) -> None:
    out = small_run(tmp_path / "r", task="generation", rounds=0, baselines=[], data__max_tokens=40).out
    flip(out / "base" / "model.safetensors")
    with pytest.raises(RunFolderError, match=r"model\.safetensors is damaged, or was changed"):
        Chat(OpenRun(out), "planted-0-0")


@pytest.mark.parametrize("engine", ["in process", "flower"])
def test_a_run_is_not_resumed_on_another_base(engine: str, tmp_path: Path) -> None:
    rows, base = own_rows(tmp_path / "data"), save_checkpoint(tmp_path / "m", "roberta")
    settings = small_settings(model=str(base), data__path=str(rows), baselines=[], flower__wait=5)
    if engine == "flower":
        over_memory(settings, tmp_path / "r")
    else:
        small_run(tmp_path / "r", model=str(base), data__path=str(rows), baselines=[])
    environment = json.loads((tmp_path / "r" / "environment.json").read_text())
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= environment["base_files"].keys()
    (tmp_path / "r" / "summary.json").unlink()
    flip(base / "model.safetensors")
    with pytest.raises(RunFolderError, match=CHANGED):
        if engine == "flower":
            over_memory(settings, tmp_path / "r")
        else:
            resume(tmp_path / "r")


def test_a_pooler_without_weights_is_the_same_in_every_use(tmp_path: Path) -> None:
    run = Trained(tmp_path, "bert", rounds=2, train__lr=0.02)
    said = json.loads((run.out / "environment.json").read_text())["data_warnings"]
    assert any("has no weights for bert.pooler" in warning for warning in said)
    settings = small_settings(**run.settings)
    federation = load_federation(settings.data, settings.seed)
    scored = json.loads((run.out / "summary.json").read_text())["per_client"]
    opened = OpenRun(run.out)
    mixed, tokenizer = MixedModel.of_run(OpenRun(run.out)), fedlease.tokenizer(run.out)
    for client in federation:
        texts = [row.text for row in client.test]
        batch = tokenizer(texts, padding=True, truncation=True, max_length=24, return_tensors="pt")
        with torch.inference_mode():
            torch.manual_seed(len(texts))
            logits = fedlease.load(run.out, client.id)(**batch).logits
        for other in (mixed.logits(batch, [client.id] * len(texts)),):
            assert torch.allclose(torch.stack(other), logits, atol=1e-5)
        names = [prediction["prediction"] for prediction in predict(opened, client.id, client.test)]
        assert names == [client.labels[i] for i in logits.argmax(-1).tolist()]
        right = sum(guess == client.labels[row.label] for guess, row in zip(names, client.test, strict=True))
        assert right / len(names) == scored[client.id]["accuracy"]
    # Exported, the pooler goes along: stock PEFT would draw it at random.
    Exporter(OpenRun(run.out), scores=False).client("one", tmp_path / "x", mixture="own")
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        base = AutoModelForSequenceClassification.from_pretrained(run.base, num_labels=2)
        with torch.inference_mode():
            found.append(PeftModel.from_pretrained(base, str(tmp_path / "x")).eval()(**batch).logits)
    assert torch.equal(*found)


def test_over_flower_a_pooler_without_weights_gives_the_same_run(tmp_path: Path) -> None:
    run = Trained(tmp_path, "bert", rounds=1)
    settings = small_settings(**run.settings)
    summaries, _ = over_memory(settings, tmp_path / "f")
    here = json.loads((run.out / "summary.json").read_text())
    assert summaries["fedlease"]["per_client"] == here["per_client"]
