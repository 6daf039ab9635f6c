"""Names of parameters, and copying by name."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from peft_plugin import tiny
from torch import nn

from fedlease.core.types import AdapterSpec, TensorName
from fedlease.peft_plugin import FedLeaseConfig
from fedlease.peft_plugin.state import (
    adapter_parameters,
    copy_into,
    head_parameters,
    peft_config_for,
    snapshot,
    wrap,
)

SELF = "bert.encoder.layer.{}.attention.self.{}"


def test_names_of_a_mixture_follow_the_modules() -> None:
    names = list(adapter_parameters(tiny.mixture("bert", num_experts=2)))
    expected = []
    for layer in (0, 1):
        for target in ("query", "value"):
            module = SELF.format(layer, target)
            expected += [f"{module}/A/0", f"{module}/A/1", f"{module}/B/0", f"{module}/B/1", f"{module}/G"]
    assert names == expected


def test_names_of_stock_lora_are_those_of_expert_zero() -> None:
    model = wrap(tiny.base("bert"), LoraConfig(r=2, target_modules=["query", "value"]))
    modules = [SELF.format(layer, target) for layer in (0, 1) for target in ("query", "value")]
    parameters = adapter_parameters(model)
    assert list(parameters) == [f"{module}/{kind}/0" for module in modules for kind in "AB"]
    assert {tuple(p.shape) for p in parameters.values()} == {(2, 16), (16, 2)}


@pytest.mark.parametrize("kind", tiny.ALL)
def test_names_are_modules_of_the_base_model(kind: str) -> None:
    paths = {name for name, _ in tiny.base(kind).named_modules()}
    found = {TensorName.parse(name).module for name in adapter_parameters(tiny.mixture(kind))}
    assert found <= paths and len(found) == 2 * len(tiny.TARGETS[kind])


@pytest.mark.parametrize("lora", [False, True])
def test_layers_keep_their_numbers(lora: bool, tmp_path: Path) -> None:
    # The released code renames by replacing "0" in strings, and loses layers 0, 10 and 20.
    settings = AdapterSpec(1, 2, 0.0, ("query",)) if lora else AdapterSpec(1, 2, 0.0, ("query",), 11, 10, "top_m")
    model = wrap(tiny.base("bert", layers=21), peft_config_for(settings))
    parameters = adapter_parameters(model)
    experts = 1 if lora else 11
    with torch.no_grad():
        for name, parameter in parameters.items():
            parsed = TensorName.parse(name)
            parameter.fill_(int(parsed.module.split(".")[3]) + 100 * (parsed.expert or 0))
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    reloaded = adapter_parameters(tiny.load(tiny.base("bert", layers=21), tmp_path))
    assert list(reloaded) == list(parameters)
    for layer in range(21):
        for expert in range(experts):
            for kind in "AB":
                value = reloaded[f"{SELF.format(layer, 'query')}/{kind}/{expert}"]
                assert torch.equal(value, torch.full_like(value, layer + 100 * expert))


def test_spec_gives_stock_lora_or_a_mixture() -> None:
    single = peft_config_for(AdapterSpec(2, 4.0, 0.1, ("query",)), task_type="SEQ_CLS")
    assert type(single) is LoraConfig
    assert (single.r, single.lora_alpha, single.lora_dropout, single.task_type) == (2, 4.0, 0.1, "SEQ_CLS")
    mixed = peft_config_for(AdapterSpec(2, 4.0, 0.1, ("query",), 3, 2, "top_m", 4, False))
    assert isinstance(mixed, FedLeaseConfig)
    assert (mixed.num_experts, mixed.own_expert, mixed.top_k, mixed.renormalise) == (3, 2, 4, False)
    assert (mixed.r, mixed.lora_alpha, mixed.lora_dropout, mixed.target_modules) == (2, 4.0, 0.1, {"query"})


def test_copied_values_arrive_in_the_model() -> None:
    first, second = tiny.mixture(seed=0), tiny.mixture(seed=0)
    tiny.randomise(second, seed=7)
    ids = tiny.tokens()
    assert not torch.equal(tiny.logits(first, ids), tiny.logits(second, ids))
    source = adapter_parameters(second)
    copy_into(adapter_parameters(first), snapshot(source, source))
    assert torch.equal(tiny.logits(first, ids), tiny.logits(second, ids))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("b"), r"missing \['b'\], unknown \[\]"),
        (lambda t: t.update(c=torch.ones(1)), r"missing \[\], unknown \['c'\]"),
        (lambda t: t.update(b=torch.ones(1, 3)), r"b has shape \(1, 3\), expected \(3,\)"),
    ],
    ids=["missing", "extra", "shape"],
)
def test_copying_refuses_what_does_not_fit_and_then_copies_nothing(change: object, message: str) -> None:
    parameters = {"a": nn.Parameter(torch.zeros(2)), "b": nn.Parameter(torch.zeros(3))}
    tensors = {"a": torch.ones(2), "b": torch.ones(3)}
    change(tensors)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        copy_into(parameters, tensors)
    assert not any(parameter.any() for parameter in parameters.values())


def test_snapshot_is_a_copy_with_sorted_names() -> None:
    parameters = {name: nn.Parameter(torch.ones(2)) for name in "bac"}
    copy = snapshot(parameters, ["c", "a"])
    assert list(copy) == ["a", "c"] and not copy["a"].requires_grad
    with torch.no_grad():
        parameters["a"].zero_()
    assert copy["a"].tolist() == [1.0, 1.0]


def test_head_parameters_are_those_that_train() -> None:
    plain = tiny.base("bert")
    assert head_parameters(plain, ["classifier"])["head/classifier.weight"] is plain.classifier.weight
    wrapped = tiny.mixture("bert")
    found = head_parameters(wrapped.get_base_model(), ["classifier"])
    assert list(found) == ["head/classifier.weight", "head/classifier.bias"]
    assert all(parameter.requires_grad for parameter in found.values())
    ids = tiny.tokens()
    before = tiny.logits(wrapped, ids)
    with torch.no_grad():
        found["head/classifier.bias"].add_(1)
    torch.testing.assert_close(tiny.logits(wrapped, ids), before + 1)
