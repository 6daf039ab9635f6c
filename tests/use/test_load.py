"""What is loaded predicts exactly what was evaluated, in a fresh process too."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from small import EIGHT, SMALL

import fedlease
from fedlease.config.settings import resolve
from fedlease.data.load import load_federation
from fedlease.errors import ConfigError, RunFolderError
from fedlease.storage.run_files import RunFiles

METHODS = ["fedlease", "fedit", "local"]


def test_every_client_of_every_method_scores_as_in_its_summary(out: Path) -> None:
    federation = load_federation(resolve(preset="smoke", overrides={**SMALL, **EIGHT}).data, seed=0)
    tokenizer = fedlease.tokenizer(out)
    for method in METHODS:
        folder = out if method == "fedlease" else out / "baselines" / method
        summary = json.loads((folder / "summary.json").read_text())
        for client in federation:
            model = fedlease.load(out, client.id, method)
            assert not model.training
            batch = tokenizer(
                [row.text for row in client.test], padding=True, truncation=True, max_length=24, return_tensors="pt"
            )
            with torch.inference_mode():
                best = model(**batch).logits.argmax(-1).tolist()
            right = sum(guess == row.label for guess, row in zip(best, client.test, strict=True))
            assert right / len(client.test) == summary["per_client"][client.id]["accuracy"], (method, client.id)


def test_a_loaded_model_is_saved_and_read_back_by_peft(out: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    from fedlease.models.base import load_base
    from fedlease.models.sources import locate

    model = fedlease.load(out, "planted-0-0")
    model.save_pretrained(tmp_path / "adapter")
    base = load_base(locate(str(out / "base"), None, out, 0), dtype="float32", dropout=False).model
    again = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    ids = torch.arange(4, 24).view(2, 10)
    with torch.inference_mode():
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


def test_labels_are_the_clients_own(out: Path) -> None:
    federation = load_federation(resolve(preset="smoke", overrides={**SMALL, **EIGHT}).data, seed=0)
    assert len({client.labels for client in federation}) > 1
    for client in federation:
        config = fedlease.load(out, client.id).config
        assert config.id2label == dict(enumerate(client.labels))
        assert config.label2id == {label: i for i, label in enumerate(client.labels)}


def test_unknown_client_method_and_folder_are_named(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"client: the run has \['planted-0-0'.*received 'nobody'"):
        fedlease.load(out, "nobody")
    with pytest.raises(ConfigError, match=r"method: the run has \['fedlease', 'fedit', 'local'\], received 'ifca'"):
        fedlease.load(out, "planted-0-0", "ifca")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        fedlease.load(tmp_path, "planted-0-0")


def test_without_a_name_there_must_be_one_client(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"client: name one, the run has \['planted-0-0', 'planted-0-1', "):
        fedlease.load(out)
    empty = Path(shutil.copytree(out, tmp_path / "empty"))
    RunFiles(empty).write_json("clients.json", {})
    with pytest.raises(ConfigError, match=r"client: name one, the run has \[\]"):
        fedlease.load(empty)
