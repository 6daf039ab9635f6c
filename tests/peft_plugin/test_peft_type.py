"""The PEFT type FEDLEASE behaves like a member that PEFT itself had declared."""

import copy
import importlib
import pickle  # The type must survive it: third parties pickle PEFT's configurations. fedlease itself never does.

import pytest
import torch
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import register_peft_method
from peft_plugin import tiny

import fedlease.peft_plugin as plugin
from fedlease.peft_plugin import peft_type


def test_type_is_found_by_name_value_and_attribute() -> None:
    member = plugin.FEDLEASE
    assert PeftType("FEDLEASE") is PeftType["FEDLEASE"] is PeftType.FEDLEASE is member
    assert list(PeftType).count(member) == 1 and "FEDLEASE" in PeftType.__members__
    assert member == "FEDLEASE" and member.value == member.name == "FEDLEASE"
    assert {PeftType.LORA: 1, member: 2}["FEDLEASE"] == 2


def test_type_survives_pickle_and_copies() -> None:
    for copied in (pickle.loads(pickle.dumps(plugin.FEDLEASE)), copy.copy(plugin.FEDLEASE)):
        assert copied is plugin.FEDLEASE
    config = tiny.config("bert")
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config


def test_model_survives_deepcopy() -> None:
    model, ids = tiny.mixture("bert"), tiny.tokens()
    expected = tiny.logits(model, ids)
    copied = copy.deepcopy(model)
    tiny.randomise(model, seed=9)
    assert torch.equal(tiny.logits(copied, ids), expected)


def test_registering_again_changes_nothing() -> None:
    members = list(PeftType)
    config_class, tuner_class = PEFT_TYPE_TO_CONFIG_MAPPING["FEDLEASE"], PEFT_TYPE_TO_TUNER_MAPPING["FEDLEASE"]
    assert importlib.reload(peft_type).FEDLEASE is plugin.FEDLEASE
    importlib.reload(plugin)
    assert list(PeftType) == members
    assert PEFT_TYPE_TO_CONFIG_MAPPING["FEDLEASE"] is config_class is plugin.FedLeaseConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING["FEDLEASE"] is tuner_class is plugin.FedLeaseModel


def test_peft_itself_refuses_names_it_does_not_know() -> None:
    # Why peft_type.py exists: should this one day not raise, it can go.
    with pytest.raises(ValueError, match="NOT_A_METHOD"):
        register_peft_method(name="not_a_method", config_cls=plugin.FedLeaseConfig, model_cls=plugin.FedLeaseModel)
