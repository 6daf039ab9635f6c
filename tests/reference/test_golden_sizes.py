"""Parameter counts and bytes of the paper's two settings, from the models' real configurations.

The models are built on the meta device: no weights, no download. Expected numbers: with h the hidden size and n the
number of adapted square modules (query and value of every layer), an expert has n r (h + h) parameters and a router
n (2M - 1) h.

    RoBERTa-large   n = 24 x 2 = 48, h = 1024, r = 4: expert 48 x 4 x 2048 = 393,216;
                    router 48 x 1024 x (3, 7, 15) = 147,456, 344,064, 737,280 at M = 2, 4, 8
    LLaMA-2-7B      n = 32 x 2 = 64, h = 4096, r = 8: expert 64 x 8 x 8192 = 4,194,304;
                    router 64 x 4096 x 7 = 1,835,008 at M = 4
"""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedModel,
    RobertaConfig,
)

from fedlease.core.adapters import initial_adapter, initial_router, renumber
from fedlease.core.types import ClientModel


def square_modules(model: PreTrainedModel, endings: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[-1] in endings
    }


@pytest.fixture(scope="module")
def roberta() -> PreTrainedModel:
    config = RobertaConfig(
        vocab_size=50265,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        intermediate_size=11008,
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def count(tensors: dict[str, torch.Tensor]) -> int:
    return sum(t.numel() for t in tensors.values())


def adapter_of(model: PreTrainedModel, endings: tuple[str, ...], r: int) -> ClientModel:
    return initial_adapter(square_modules(model, endings), r=r, alpha=16, dropout=0.05, seed=0)


def megabytes(parameters: int) -> float:
    """10^6 bytes, as float32."""
    return 4 * parameters / 1e6


def test_the_models_are_the_real_ones(roberta: PreTrainedModel, llama: PreTrainedModel) -> None:
    # As published: RoBERTa-large 355 M (with the classifier of two labels), LLaMA-2-7B 6.74 B.
    assert roberta.num_parameters() == 355_361_794
    assert llama.num_parameters() == 6_738_415_616
    # Dense layer 1024 x 1024 + 1024 and output 1024 x 2 + 2: 1.05 M parameters, 2.7 experts' worth.
    head = sum(p.numel() for p in roberta.classifier.parameters())
    assert head == 1_051_650
    assert head / 393_216 == pytest.approx(2.7, abs=0.05)


@pytest.mark.parametrize(
    ("num_experts", "router", "up", "down"),
    # up: own expert and router; down: all experts and the router; 10^6 bytes in float32.
    [(2, 147_456, 2.16, 3.74), (4, 344_064, 2.95, 7.67), (8, 737_280, 4.52, 15.53)],
)
def test_roberta_large(roberta: PreTrainedModel, num_experts: int, router: int, up: float, down: float) -> None:
    adapter = adapter_of(roberta, ("query", "value"), r=4)
    assert len(adapter.spec.target_modules) == 48
    tensors = initial_router(adapter, num_experts, seed=0)
    assert count(dict(adapter.tensors)) == 393_216
    assert count(tensors) == router
    assert megabytes(393_216 + router) == pytest.approx(up, abs=0.005)
    everything = dict(tensors)
    for expert in range(num_experts):
        everything.update(renumber(adapter.tensors, expert))
    assert megabytes(count(everything)) == pytest.approx(down, abs=0.005)


def test_llama_2_7b(llama: PreTrainedModel) -> None:
    adapter = adapter_of(llama, ("q_proj", "v_proj"), r=8)
    assert len(adapter.spec.target_modules) == 64
    assert count(dict(adapter.tensors)) == 4_194_304
    router = count(initial_router(adapter, 4, seed=0))
    assert router == 1_835_008
    assert megabytes(4_194_304 + router) == pytest.approx(24.1, abs=0.05)
    assert megabytes(4 * 4_194_304 + router) == pytest.approx(74.4, abs=0.05)


def test_the_router_outweighs_an_expert_from_2m_minus_1_above_2r(roberta: PreTrainedModel) -> None:
    adapter = adapter_of(roberta, ("query", "value"), r=4)
    # 2M - 1 > 8 from M = 5 on.
    assert count(initial_router(adapter, 4, seed=0)) < 393_216 < count(initial_router(adapter, 5, seed=0))
