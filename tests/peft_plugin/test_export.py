"""One expert as stock LoRA: the same function, without fedlease."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft_plugin import tiny
from safetensors.torch import load_file

from fedlease.peft_plugin import export_expert
from fedlease.peft_plugin.state import wrap


def alone(model: PeftModel, expert: int, ids: torch.Tensor) -> torch.Tensor:
    model.base_model.restrict((expert,))
    found = tiny.logits(model, ids)
    model.base_model.restrict(None)
    return found


@pytest.mark.parametrize("kind", tiny.ALL)
@pytest.mark.parametrize("expert", [0, 2])
def test_exported_expert_is_the_expert_alone_and_merges(kind: str, expert: int, tmp_path: Path) -> None:
    model, ids = tiny.mixture(kind, own_expert=2, lora_alpha=6, lora_dropout=0.1), tiny.tokens()
    expected, mixed = alone(model, expert, ids), tiny.logits(model, ids)
    assert tiny.relative(expected, mixed) > 1e-2  # not merely the same whatever is exported
    export_expert(model, expert, tmp_path / "new" / "folder")
    lora = tiny.load(tiny.base(kind), tmp_path / "new" / "folder")
    assert type(lora.peft_config["default"]) is LoraConfig
    assert tiny.relative(tiny.logits(lora, ids), expected) < 1e-5
    assert tiny.relative(tiny.logits(lora.merge_and_unload(), ids), expected) < 1e-4
    assert torch.equal(tiny.logits(model, ids), mixed)


def test_exported_folder_of_a_classifier_holds_the_trained_head(tmp_path: Path) -> None:
    model, ids = tiny.mixture("roberta"), tiny.tokens()
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].out_proj.bias.add_(1)
    export_expert(model, 1, tmp_path)
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    head = {f"base_model.model.classifier.{m}.{p}" for m in ("dense", "out_proj") for p in ("weight", "bias")}
    assert {name for name in names if "lora_" not in name} == head
    assert len(names) == len(head) + 2 * 2 * 2
    assert tiny.relative(tiny.logits(tiny.load(tiny.base("roberta"), tmp_path), ids), alone(model, 1, ids)) < 1e-5


def test_nested_module_to_save_is_exported(tmp_path: Path) -> None:
    model, ids = tiny.mixture("bert", modules_to_save=["classifier", "pooler.dense"]), tiny.tokens()
    with torch.no_grad():
        model.base_model.model.bert.pooler.dense.modules_to_save["default"].bias.add_(1)
    export_expert(model, 0, tmp_path)
    assert tiny.relative(tiny.logits(tiny.load(tiny.base("bert"), tmp_path), ids), alone(model, 0, ids)) < 1e-5


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_exported_folder_of_a_causal_model_is_only_lora(kind: str, tmp_path: Path) -> None:
    model = tiny.mixture(kind)
    export_expert(model, 1, tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)
    assert len(names) == 2 * 2 * len(tiny.TARGETS[kind])
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["modules_to_save"] is None and settings["inference_mode"] is True
    assert settings["fan_in_fan_out"] is (kind == "gpt2")
    assert (settings["peft_type"], settings["task_type"]) == ("LORA", "CAUSAL_LM")


def test_many_layers_are_exported_under_their_numbers(tmp_path: Path) -> None:
    model, ids = tiny.mixture("bert", layers=21, target_modules=["query"]), tiny.tokens()
    export_expert(model, 1, tmp_path)
    lora = tiny.load(tiny.base("bert", layers=21), tmp_path)
    assert tiny.relative(tiny.logits(lora, ids), alone(model, 1, ids)) < 1e-5


def test_export_of_a_named_adapter(tmp_path: Path) -> None:
    model, ids = tiny.mixture("bert"), tiny.tokens()
    model.add_adapter("second", tiny.config("bert", num_experts=2))
    tiny.randomise(model, "second", seed=4)
    export_expert(model, 1, tmp_path, "second")
    model.set_adapter("second")
    model.base_model.restrict((1,), "second")
    assert tiny.relative(tiny.logits(tiny.load(tiny.base("bert"), tmp_path), ids), tiny.logits(model, ids)) < 1e-5


def test_export_refuses_other_adapters_and_unknown_experts(tmp_path: Path) -> None:
    model = tiny.mixture("bert", num_experts=3)
    with pytest.raises(ValueError, match=r"expert must be in 0 \.\. 2, received 3"):
        export_expert(model, 3, tmp_path / "never")
    stock = wrap(tiny.base("bert"), LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ValueError, match="adapter 'default' is LoraConfig, expected FedLeaseConfig"):
        export_expert(stock, 0, tmp_path / "never")
    assert not (tmp_path / "never").exists()
