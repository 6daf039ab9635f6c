"""A model on a residual or with a core leaves as one stock LoRA adapter, or merged: both compute what it does."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from small import FinishedRuns
from transformers import AutoModelForSequenceClassification

import fedlease
from fedlease.use.export import Exporter
from fedlease.use.open_run import OpenRun

CLIENT = "planted-1-0"
IDS = torch.arange(4, 44).view(4, 10)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize(
    ("method", "mixer"),
    [
        ("fedex-lora", "sum"),
        ("fed-sb", "core"),
        ("ravan", "heads"),
        ("fedrora", "diagonal"),
    ],
)
def test_adapter_and_merged_model_compute_what_the_client_does(
    method: str, mixer: str, finished: FinishedRuns, tmp_path: Path
) -> None:
    out = finished(method=method, baselines=[]).out
    run, expected = OpenRun(out), logits(fedlease.load(out, CLIENT))
    spec = run.model(CLIENT).spec
    assert spec.mixer == mixer and (spec.num_experts > 1) == (mixer in ("sum", "heads"))
    Exporter(run).client(CLIENT, tmp_path / "adapter")
    Exporter(run).client(CLIENT, tmp_path / "merged", form="merged")
    base = AutoModelForSequenceClassification.from_pretrained(out / "base", num_labels=2)
    lora = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    config = lora.peft_config["default"]
    assert type(config) is LoraConfig and config.r == spec.num_experts * spec.r
    torch.testing.assert_close(logits(lora), expected, atol=1e-5, rtol=0)
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(whole), expected, atol=1e-5, rtol=0)
    scores = json.loads((tmp_path / "adapter" / "scores.json").read_text())["scores"]
    assert len({*scores.values()}) == 1, "there is no expert that would be a model by itself"
