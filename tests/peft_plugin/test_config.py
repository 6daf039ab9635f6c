"""The configuration: what it refuses, and that it survives JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import PeftConfig

from fedlease.peft_plugin import FEDLEASE, FedLeaseConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "r must be at least 1, received 0"),
        ({"lora_alpha": 0}, "lora_alpha must be above 0 and finite, received 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be above 0 and finite, received nan"),
        ({"lora_dropout": 1.0}, "lora_dropout must be in [0, 1), received 1.0"),
        ({"lora_dropout": -0.1}, "lora_dropout must be in [0, 1), received -0.1"),
        ({"num_experts": 0}, "num_experts must be at least 1, received 0"),
        ({"num_experts": 3, "own_expert": 3}, "own_expert must be in 0 .. 2, received 3"),
        ({"own_expert": -1}, "own_expert must be in 0 .. 3, received -1"),
        ({"mixer": "top_n"}, "mixer must be one of "),
        ({"num_experts": 3, "top_k": 0}, "top_k must be None or in 1 .. 5, received 0"),
        ({"num_experts": 3, "top_k": 6}, "top_k must be None or in 1 .. 5, received 6"),
        ({"mixer": "none", "num_experts": 2}, "mixer 'none' needs num_experts = 1, received 2"),
        ({"r": 2.5}, "r must be a whole number, received 2.5"),
        ({"r": "8"}, "r must be a whole number, received '8'"),
        ({"num_experts": True}, "num_experts must be a whole number, received True"),
        ({"own_expert": None}, "own_expert must be a whole number, received None"),
        ({"top_k": 1.0}, "top_k must be a whole number, received 1.0"),
        ({"lora_alpha": "16"}, "lora_alpha must be a number, received '16'"),
        ({"lora_alpha": float("inf")}, "lora_alpha must be above 0 and finite, received inf"),
        ({"blend": None}, "blend must be a number, received None"),
        ({"renormalise": "no"}, "renormalise must be True or False, received 'no'"),
        ({"init_weights": 0}, "init_weights must be True or False, received 0"),
        (
            {"mixer": ["top_m"]},
            "mixer must be one of none, sum, core, heads, diagonal, sparse, top_m, softmax, scalar, "
            "instance, received [",
        ),
        ({"anchor": [0.5, float("nan")]}, "anchor must be None or a list of finite numbers, received [0.5, nan]"),
        ({"anchor": "0.5"}, "anchor must be None or a list of finite numbers, received '0.5'"),
    ],
)
def test_values_out_of_range_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        FedLeaseConfig(**settings)
    assert str(caught.value).startswith(message)


def test_all_faults_come_together() -> None:
    with pytest.raises(ValueError) as caught:
        FedLeaseConfig(r=0, lora_dropout=2, own_expert=9)
    assert str(caught.value).splitlines() == [
        "r must be at least 1, received 0",
        "lora_dropout must be in [0, 1), received 2",
        "own_expert must be in 0 .. 3, received 9",
    ]
    with pytest.raises(ValueError) as caught:
        FedLeaseConfig(r="x", blend="y")  # type: ignore[arg-type]
    assert str(caught.value).splitlines() == [
        "r must be a whole number, received 'x'",
        "blend must be a number, received 'y'",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 1, "num_experts": 1},
        {"num_experts": 3, "own_expert": 2, "top_k": 5},
        {"num_experts": 1, "mixer": "none"},
        {"lora_dropout": 0.99},
    ],
)
def test_values_at_the_edge_are_accepted(settings: dict[str, Any]) -> None:
    config = FedLeaseConfig(**settings)
    assert {name: getattr(config, name) for name in settings} == settings


def test_config_survives_json(tmp_path: Path) -> None:
    config = FedLeaseConfig(
        r=3,
        lora_alpha=6.5,
        lora_dropout=0.25,
        num_experts=5,
        own_expert=4,
        target_modules=["value", "query"],
        exclude_modules=["layer.0.attention.self.query"],
        top_k=2,
        renormalise=False,
        modules_to_save=["classifier"],
        layers_to_transform=[0, 1],
        layers_pattern="layer",
        init_weights=False,
        task_type="SEQ_CLS",
    )
    config.save_pretrained(str(tmp_path))
    for loaded in (PeftConfig.from_pretrained(str(tmp_path)), FedLeaseConfig.from_pretrained(str(tmp_path))):
        assert isinstance(loaded, FedLeaseConfig)
        assert loaded.peft_type == FEDLEASE
        assert loaded.to_dict() == config.to_dict()
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "FEDLEASE"


def test_regular_expression_of_targets_stays_a_string(tmp_path: Path) -> None:
    FedLeaseConfig(target_modules=r".*\.query").save_pretrained(str(tmp_path))
    assert FedLeaseConfig.from_pretrained(str(tmp_path)).target_modules == r".*\.query"
