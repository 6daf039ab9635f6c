"""One fresh process: stock PEFT without fedlease, then with its plugin, then the run's own models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft_plugin import tiny
from safetensors.torch import load_file
from small import EIGHT, SMALL, WHOLE, FinishedRuns

from fedlease.config.settings import resolve
from fedlease.core.folding import fold
from fedlease.data.load import load_federation
from fedlease.peft_plugin import export_expert
from fedlease.use.export import Exporter
from fedlease.use.open_run import OpenRun

METHODS = ["fedlease", "fedit", "local"]
CLIENT = "planted-1-1"
IDS = torch.arange(4, 44).view(4, 10)

FRESH = """
import json, pathlib, sys, torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, GPT2LMHeadModel
torch.set_num_threads(1)
torch.set_grad_enabled(False)
home, out = map(pathlib.Path, sys.argv[1:3])
client, methods, texts, ids = json.loads(sys.argv[3])
ids = torch.tensor(ids)

base = AutoModelForSequenceClassification.from_pretrained(out / "base", num_labels=2)
model = PeftModel.from_pretrained(base, home / "folded").eval()
found = {"folded": model(input_ids=torch.arange(4, 44).view(4, 10)).logits}
model = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(home / "gpt2"), home / "expert").eval()
found |= {"expert": model(input_ids=ids).logits, "merged": model.merge_and_unload()(input_ids=ids).logits}
assert not [name for name in sys.modules if name.split(".")[0] == "fedlease"]

import fedlease.peft_plugin
base = BertForSequenceClassification.from_pretrained(home / "bert", num_labels=3)
found["mixture"] = PeftModel.from_pretrained(base, home / "mixture").eval()(input_ids=ids).logits
save_file(found, home / "found")

import fedlease
batch = fedlease.tokenizer(out)(texts, padding=True, truncation=True, max_length=24, return_tensors="pt")
for method in methods:
    model = fedlease.load(out, client, method)
    best = model(**batch).logits.argmax(-1).tolist()
    print(json.dumps([model.config.id2label[i] for i in best]))
"""


@pytest.mark.slow
def test_folders_load_without_fedlease_with_its_plugin_and_with_it(finished: FinishedRuns, tmp_path: Path) -> None:
    run = OpenRun(finished(**WHOLE).out)
    Exporter(run).client(CLIENT, tmp_path / "folded")
    gpt2, bert, ids = tiny.mixture("gpt2", own_expert=1), tiny.mixture("bert"), tiny.tokens()
    for name in ("gpt2", "bert"):
        tiny.base(name).save_pretrained(str(tmp_path / name))
    export_expert(gpt2, 1, tmp_path / "expert")
    bert.save_pretrained(str(tmp_path / "mixture"), save_embedding_layers=False)
    client = load_federation(resolve(preset="smoke", overrides={**SMALL, **EIGHT}).data, seed=0).clients[CLIENT]
    given = json.dumps([CLIENT, METHODS, [row.text for row in client.test], ids.tolist()])
    command = [sys.executable, "-W", "ignore", "-c", FRESH, str(tmp_path), str(run.out), given]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)

    found = load_file(tmp_path / "found")
    weights = json.loads((tmp_path / "folded/scores.json").read_text())["average_weights"]
    run.load(CLIENT, fold(run.model(CLIENT), weights))
    run.resident.model.eval()
    with torch.inference_mode():
        assert torch.allclose(found["folded"], run.resident.logits({"input_ids": IDS}), atol=1e-5)
    gpt2.base_model.restrict((1,))
    alone = tiny.logits(gpt2, ids)
    assert max(tiny.relative(found[name], alone) for name in ("expert", "merged")) < 1e-4
    assert torch.equal(found["mixture"], tiny.logits(bert, ids))
    for method, line in zip(METHODS, done.stdout.splitlines(), strict=True):
        folder = run.out if method == "fedlease" else run.out / "baselines" / method
        summary = json.loads((folder / "summary.json").read_text())
        right = sum(label == client.labels[row.label] for label, row in zip(json.loads(line), client.test, strict=True))
        assert right / len(client.test) == summary["per_client"][CLIENT]["accuracy"], method
