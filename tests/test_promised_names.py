"""Names, parameters and keys that others call: they stay where they are, whatever is rebuilt behind them."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

import fedlease
from fedlease.config.settings import Settings
from fedlease.core.aggregate import weighted_mean
from fedlease.core.allocate import allocate, distances
from fedlease.core.routing import expert_weights
from fedlease.core.types import Allocation
from fedlease.peft_plugin import FedLeaseConfig


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (distances, "b"),
        (allocate, "b max_experts min_silhouette linkage"),
        (expert_weights, "logits own renormalise"),
        (weighted_mean, "states weights"),
        (fedlease.run, "config out listeners"),
        (fedlease.load, "run_folder client"),
        (fedlease.tokenizer, "run_folder"),
        (fedlease.RunResult.load, "client"),
    ],
    ids=lambda value: value.__qualname__ if callable(value) else "",
)
def test_functions_take_these_parameters(function: Callable[..., Any], parameters: str) -> None:
    assert set(parameters.split()) <= set(inspect.signature(function).parameters)


def test_an_allocation_holds_what_was_decided() -> None:
    expected = {"num_experts", "assignment", "silhouettes", "distances", "clients"}
    assert expected <= {field.name for field in fields(Allocation)}


def test_the_adapters_configuration_has_these_fields() -> None:
    expected = "r lora_alpha lora_dropout num_experts own_expert target_modules mixer top_k renormalise"
    assert set(expected.split()) <= {field.name for field in fields(FedLeaseConfig)}


def test_settings_have_these_keys() -> None:
    content = Settings().model_dump()
    keys = "seed method baselines model task rounds max_experts threads device dtype fedlease data warmup lora"
    assert set(keys.split()) <= content.keys()
    assert "path" in content["data"] and "epochs" in content["warmup"] and "r" in content["lora"]
