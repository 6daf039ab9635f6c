"""GPT-2, whose linear layers are ``Conv1D`` with transposed weights, through training, folding, export and loading."""

import json
from pathlib import Path

import pytest
import torch
from checkpoints import save_checkpoint
from peft import PeftModel
from small import own_rows, small_run
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

import fedlease
from fedlease.core.folding import fold
from fedlease.data.load import load_federation
from fedlease.errors import ModelError
from fedlease.models.base import load_base
from fedlease.models.sources import ModelSource
from fedlease.models.targets import target_shapes
from fedlease.use.export import Exporter
from fedlease.use.open_run import OpenRun
from fedlease.use.predict import predict
from fedlease.use.serving.mixed import MixedModel

METHODS = ("fedlease", "fedit")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    base = save_checkpoint(folder / "m", "gpt2")
    rows = own_rows(folder / "data", train=12)
    changes = {"model": str(base), "data__path": str(rows), "baselines": ["fedit"], "train__lr": 0.02}
    return small_run(folder / "r", **changes, lora__r=12).out


def test_its_fused_projection_is_adapted_by_default_and_by_name(tmp_path: Path) -> None:
    base = load_base(ModelSource("m", str(save_checkpoint(tmp_path / "m", "gpt2"))), dtype="float32", dropout=False)
    default = target_shapes(base, None, 4)
    # Query, key and value side by side: (16, 3 x 16).
    assert default == {f"transformer.h.{n}.attn.c_attn": (16, 48) for n in (0, 1)}
    assert target_shapes(base, ["c_attn"], 4) == default
    assert target_shapes(base, ["c_fc"], 4) == {f"transformer.h.{n}.mlp.c_fc": (16, 64) for n in (0, 1)}
    with pytest.raises(ModelError, match=r"these exist: \['c_attn', 'c_fc', 'c_proj'\]"):
        target_shapes(base, ["q_proj"], 4)


@pytest.mark.parametrize("method", METHODS)
def test_every_use_computes_the_model_that_was_scored(method: str, out: Path) -> None:
    opened, tokenizer = OpenRun(out, method), fedlease.tokenizer(out)
    folder = out if method == "fedlease" else out / "baselines" / method
    scored = json.loads((folder / "summary.json").read_text())["per_client"]
    mixed = MixedModel.of_run(OpenRun(out, method))
    for client in load_federation(opened.settings.data, 0):
        batch = tokenizer([row.text for row in client.test], padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = fedlease.load(out, client.id, method)(**batch).logits
        together = torch.stack(mixed.logits(batch, [client.id] * len(client.test)))
        assert torch.allclose(together, logits, atol=1e-5)
        guesses = logits.argmax(-1).tolist()
        assert [found["prediction"] for found in predict(opened, client.id, client.test)] == [
            client.labels[i] for i in guesses
        ]
        right = sum(guess == row.label for guess, row in zip(guesses, client.test, strict=True))
        assert right / len(guesses) == scored[client.id]["accuracy"]


@pytest.mark.parametrize("rank", [None, 3, 20])
def test_exported_it_is_a_plain_lora_that_merges(rank: int | None, out: Path, tmp_path: Path) -> None:
    """Two experts of rank 12 or more: whole and cut to 20, the adapter's rank is above the smaller side, 16."""
    run = OpenRun(out)
    model = run.model("one")
    Exporter(run, scores=False).client("one", tmp_path / "x", rank=rank)
    assert json.loads((tmp_path / "x" / "adapter_config.json").read_text())["fan_in_fan_out"] is True
    base = AutoModelForSequenceClassification.from_pretrained(run.settings.model, num_labels=2, pad_token_id=0)
    lora = PeftModel.from_pretrained(base, str(tmp_path / "x")).eval()
    weights = json.loads((tmp_path / "x" / "scores.json").read_text())["average_weights"]
    folded = fold(model, weights, rank)
    ids = torch.arange(4, 44).view(4, 10)
    run.load("one", folded)
    run.resident.model.eval()
    with torch.inference_mode():
        expected = run.resident.logits({"input_ids": ids})
        assert torch.allclose(lora(input_ids=ids).logits, expected, atol=1e-5)
        merged: nn.Module = lora.merge_and_unload()
        assert torch.allclose(merged(input_ids=ids).logits, expected, atol=1e-4)
    assert any(isinstance(module, Conv1D) for module in merged.modules())


def test_the_update_of_training_reaches_the_answer(out: Path) -> None:
    model = fedlease.load(out, "one")
    ids = torch.arange(4, 44).view(4, 10)
    with torch.inference_mode():
        routed = model(input_ids=ids).logits
        with model.disable_adapter():
            assert not torch.allclose(model(input_ids=ids).logits, routed)
