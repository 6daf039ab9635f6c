"""Routed layers on a packed base: the base's own product, plus the mixture in float32."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from small import small_run
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from fedlease.errors import ConfigError, MissingPackageError
from fedlease.models.base import BaseModel, load_base
from fedlease.models.quantise import quantisation_config
from fedlease.models.sources import ModelSource
from fedlease.peft_plugin import FedLeaseConfig
from fedlease.peft_plugin.layer import FedLeaseLayer

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes: pip install 'fedlease[quantised]'"
)
# bitsandbytes says how its 8-bit product is computed on a CPU.
EIGHT_BITS = "ignore:MatMul8bitLt. inputs will be cast:UserWarning"


ON_GPU = pytest.mark.gpu
KINDS = pytest.mark.parametrize(
    ("quantisation", "kind", "near", "device"),
    [
        ("int8", "Linear8bitLt", 0.05, "cpu"),
        pytest.param("int8", "Linear8bitLt", 0.05, "cuda", marks=ON_GPU),
        pytest.param("nf4", "Linear4bit", 0.35, "cuda", marks=ON_GPU),
    ],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    path = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def base_of(folder: Path, quantisation: Any, device: str) -> BaseModel:
    source = ModelSource("llama", str(folder))
    return load_base(
        source, dtype="float32", dropout=False, task="generation", quantisation=quantisation, device=device
    )


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"'int8' needs the package bitsandbytes.*quantised"):
        quantisation_config("int8", "float32", "cpu")


@needs_bitsandbytes
@pytest.mark.parametrize(("quantisation", "device", "known"), [("int8", "mps", "cpu and cuda"), ("nf4", "cpu", "cuda")])
def test_a_device_that_cannot_is_refused(quantisation: Any, device: str, known: str) -> None:
    said = f"base.quantisation: {quantisation!r} works on {known}, the device is {device!r}"
    with pytest.raises(ConfigError, match=said):
        quantisation_config(quantisation, "float32", device)


@needs_bitsandbytes
@pytest.mark.filterwarnings(EIGHT_BITS)
@KINDS
def test_the_routed_layer_adds_to_the_packed_product(
    quantisation: str, kind: str, near: float, device: str, folder: Path
) -> None:
    """Its output less the packed layer's is the update of a routed layer on the plain weights."""
    packed, plain = base_of(folder, quantisation, device), base_of(folder, "none", device)
    plain.model.to(device)
    assert packed.placed and not plain.placed
    config = FedLeaseConfig(r=4, lora_alpha=8, num_experts=3, own_expert=1, target_modules=["q_proj", "v_proj"])
    models = [get_peft_model(base.model, config) for base in (packed, plain)]
    layers = [dict(m.named_modules())["base_model.model.model.layers.0.self_attn.q_proj"] for m in models]
    one, two = layers
    assert isinstance(one, FedLeaseLayer) and isinstance(two, FedLeaseLayer)
    assert type(one.base_layer).__name__ == kind and type(two.base_layer) is nn.Linear
    torch.manual_seed(1)
    for (name, value), (other, same) in zip(one.named_parameters(), two.named_parameters(), strict=False):
        if "fedlease" in name:
            assert name == other and value.dtype == torch.float32
            value.data = torch.randn(value.shape).to(device) * 0.1
            same.data = value.data.clone()
    x = torch.randn(2, 5, 64).to(device)
    with torch.inference_mode():
        update = one(x) - one.base_layer(x)
        torch.testing.assert_close(update, two(x) - two.base_layer(x), rtol=1e-4, atol=1e-5)
        # The base itself is near the plain one: the right weights were packed.
        error = (one.base_layer(x) - two.base_layer(x)).norm() / two.base_layer(x).norm()
    assert float(update.abs().max()) > 0 and 0 < float(error) < near


@needs_bitsandbytes
@pytest.mark.filterwarnings(EIGHT_BITS)
@KINDS
def test_only_the_adapter_learns_on_a_packed_base(
    quantisation: str, kind: str, near: float, device: str, folder: Path
) -> None:
    base = base_of(folder, quantisation, device)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    config = FedLeaseConfig(r=4, lora_alpha=8, num_experts=2, own_expert=0, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(base.model, config)
    ids = torch.arange(20).view(2, 10).to(device)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    assert trained and all("fedlease" in name for name in trained)
    after = {name.replace("base_layer.", ""): value for name, value in model.get_base_model().state_dict().items()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@needs_bitsandbytes
@pytest.mark.filterwarnings(EIGHT_BITS)
def test_a_whole_run_on_a_packed_base(tmp_path: Path) -> None:
    run = small_run(
        tmp_path / "r", task="generation", baselines=[], rounds=1, data__max_tokens=40, base__quantisation="int8"
    )
    assert run.summary["metric"] == "rouge1" and "quantisation: int8" in (run.out / "config.yaml").read_text()
