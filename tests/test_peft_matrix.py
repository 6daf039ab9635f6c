"""The script that runs PEFT's own tests: our rows stand in its tables, and what became of each test is told apart."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import begin

from fedlease.peft_plugin import FedLeaseConfig
from fedlease.peft_plugin.layer import MERGE_REFUSED

FOLDER = Path(__file__).parents[1] / "benchmarks"

CHECKOUT = """
import pytest
from torch import nn
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model
from .testing_common import configuration

TEST_CASES = [("LoRA", "MLP", LoraConfig, {"target_modules": ["lin0"]})]
ALL_PEFT_CONFIG_CLASSES = [LoraConfig]
ARGUMENTS = "test_name, model_id, config_cls, config_kwargs"


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin0, self.lin1 = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.lin1(self.lin0(x))


@pytest.mark.parametrize(ARGUMENTS, TEST_CASES)
class TestRows:
    def test_kind(self, test_name, model_id, config_cls, config_kwargs):
        assert configuration(config_cls, config_kwargs).peft_type == "FEDLEASE"

    def test_merge(self, test_name, model_id, config_cls, config_kwargs):
        get_peft_model(MLP(), config_cls(**config_kwargs)).merge_and_unload()

    def test_skip(self, test_name, model_id, config_cls, config_kwargs):
        pytest.skip("not for this one")


@pytest.mark.parametrize("config_cls", ALL_PEFT_CONFIG_CLASSES)
def test_set_requires_grad(config_cls):
    model = get_peft_model(MLP(), config_cls(r=2, target_modules=["lin0"]))
    assert all(p.requires_grad for name, p in model.named_parameters() if ".default" in name)


def test_of_another_method():
    raise AssertionError("is left out")
"""

FAILING = """

@pytest.mark.parametrize(ARGUMENTS, TEST_CASES)
def test_other(test_name, model_id, config_cls, config_kwargs):
    raise KeyError("x")
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("peft_matrix")
    for file in FOLDER.glob("*.py"):
        sys.modules.pop(file.stem, None)


def checkout(folder: Path, more: str = "") -> Path:
    (folder / "tests").mkdir()
    (folder / "tests" / "__init__.py").touch()
    (folder / "tests" / "testing_common.py").write_text("def configuration(cls, kwargs):\n    return cls(**kwargs)\n")
    (folder / "tests" / "test_custom_models.py").write_text(CHECKOUT + more)
    return folder


@pytest.mark.slow
def test_our_rows_take_the_place_of_theirs_and_outcomes_are_counted_apart(script: Any, tmp_path: Path) -> None:
    done = begin(checkout(tmp_path, FAILING), streams=tmp_path, script=FOLDER / "peft_matrix.py")
    assert done.ended(300) == 1
    printed = done.out.read_text()
    rows = len(script.ROWS)
    counted = {
        line.split("│")[1].strip(): int(line.split("│")[2])
        for line in printed.splitlines()
        if line.count("│") == 3 and line.split("│")[2].strip().isdecimal()
    }
    # One class of ours with experts of others, one without.
    expected = {"passed": rows + 1, "skipped": rows, script.MERGING: rows, script.FROZEN: 1, "failed": rows}
    assert counted == {**expected, "KeyError: 'x'": rows}
    assert f"MISSED     tests that fail: none: {rows}" in printed


def test_a_folder_without_such_tests_is_one_sentence(script: Any, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"^CHECKOUT: .* holds no tests.test_custom_models\.py; give the folder"
    ):
        script.run(tmp_path)
    assert script.main([str(tmp_path)]) == 2


def test_only_merging_and_frozen_experts_are_told_from_failures(script: Any) -> None:
    refused, other = ValueError(MERGE_REFUSED), AssertionError("assert False")
    assert script.judged("failed", refused, "test_merge_layers", FedLeaseConfig) == script.MERGING
    for name in script.ALL_TRAINABLE:
        assert script.judged("failed", other, name, FedLeaseConfig) == script.FROZEN
        assert script.judged("failed", other, name, script.OneExpert) == "failed"
    assert script.judged("failed", other, "test_disable_adapters", FedLeaseConfig) == "failed"
    assert script.judged("passed", None, "test_disable_adapters", FedLeaseConfig) == "passed"


def test_nothing_run_is_not_a_success(script: Any, tmp_path: Path) -> None:
    (target,) = script.report(script.Matrix(), tmp_path).targets
    assert target.met is False
