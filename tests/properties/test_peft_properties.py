"""The plug-in on a perceptron, with whatever M, own expert, mixer and rank: what PEFT's operations leave as it is."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from peft_plugin.tiny import randomise
from torch import Tensor, nn

from fedlease.core.types import TensorName
from fedlease.peft_plugin import FedLeaseConfig, FedLeaseModel, export_expert
from fedlease.peft_plugin.state import adapter_parameters

X = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x).tanh())
        return result


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    mixer = draw(st.sampled_from(["top_m", "softmax", "scalar", "none"]))
    experts = {"scalar": 2, "none": 1}.get(mixer) or draw(st.integers(1, 5))
    return {
        "r": draw(st.integers(1, 5)),
        "lora_alpha": draw(st.sampled_from([0.5, 4, 16])),
        "num_experts": experts,
        "own_expert": draw(st.integers(0, experts - 1)),
        "mixer": mixer,
        "top_k": draw(st.none() | st.integers(1, 2 * experts - 1)),
        "renormalise": draw(st.booleans()),
        "target_modules": draw(st.sampled_from([["first"], ["second"], ["first", "second"]])),
        "init_weights": draw(st.booleans()),
    }


def made(configuration: dict[str, Any], seed: int = 0) -> PeftModel:
    model = get_peft_model(Perceptron(), FedLeaseConfig(**configuration))
    randomise(model, seed=seed)
    return model.eval()


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(X)
    return result


few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(configuration=configurations())
def test_off_deleted_or_unloaded_it_is_the_base_to_the_bit(configuration: dict[str, Any]) -> None:
    base, model = output(Perceptron()), made(configuration)
    on = output(model)
    with model.disable_adapter():
        assert torch.equal(output(model), base)
    assert torch.equal(output(model), on)
    model.add_adapter("other", FedLeaseConfig(**{**configuration, "own_expert": 0}))
    assert torch.equal(output(model), on), "an adapter that is not active changes nothing"
    model.delete_adapter("other")
    assert torch.equal(output(model), on)
    assert torch.equal(output(model.unload()), base)


@few
@given(configuration=configurations())
def test_saved_and_copied_it_answers_the_same(
    configuration: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    model, folder = made(configuration), tmp_path_factory.mktemp("adapter")
    model.save_pretrained(str(folder))
    again = PeftModel.from_pretrained(Perceptron(), str(folder)).eval()
    assert {name: again.peft_config["default"].to_dict()[name] for name in configuration} == {
        name: model.peft_config["default"].to_dict()[name] for name in configuration
    }
    for other in (again, copy.deepcopy(model)):
        assert torch.equal(output(other), output(model))


@few
@given(configuration=configurations())
def test_an_exported_expert_is_that_expert_alone(
    configuration: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = made(configuration)
    assert isinstance(model.base_model, FedLeaseModel)
    for expert in range(configuration["num_experts"]):
        folder: Path = tmp_path_factory.mktemp("expert")
        export_expert(model, expert, folder)
        model.base_model.restrict((expert,))
        torch.testing.assert_close(output(PeftModel.from_pretrained(Perceptron(), str(folder)).eval()), output(model))
    model.base_model.restrict(None)


@few
@given(configuration=configurations(), own=st.integers(0, 4))
def test_only_the_own_expert_and_the_router_learn_whoever_owns(configuration: dict[str, Any], own: int) -> None:
    model = made(configuration).train()
    assert isinstance(model.base_model, FedLeaseModel)
    own %= configuration["num_experts"]
    model.base_model.set_own_expert(own)
    expected = {
        name
        for name in adapter_parameters(model)
        if (parsed := TensorName.parse(name)).kind == "G" or parsed.expert == own
    }
    for _ in range(2):
        found = {name for name, parameter in adapter_parameters(model).items() if parameter.requires_grad}
        assert found == expected
        assert not any(p.requires_grad for name, p in model.named_parameters() if "fedlease_" not in name)
        with model.disable_adapter():
            output(model)
    if configuration["num_experts"] == 1:
        assert not any(TensorName.parse(name).kind == "G" for name in expected)
