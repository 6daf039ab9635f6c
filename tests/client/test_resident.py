"""One base model serves clients in turn, and nothing of one is left in the next."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from fedlease.client.resident import ResidentModel
from fedlease.core.adapters import initial_adapter, renumber
from fedlease.core.types import AdapterSpec, ClientModel
from fedlease.models.base import initial_head, load_base
from fedlease.models.sources import locate
from fedlease.models.targets import target_shapes


@pytest.fixture
def resident(tmp_path: Path) -> tuple[ResidentModel, ClientModel]:
    base = load_base(locate("tiny-random", None, tmp_path / "base", 0), dtype="float32", dropout=False)
    shapes = target_shapes(base, None, 2)
    return ResidentModel(base, torch.device("cpu")), initial_adapter(shapes, r=2, alpha=4, dropout=0.0, seed=0)


def test_swapping_clients_in_and_out_leaves_no_trace(resident: tuple[ResidentModel, ClientModel]) -> None:
    """Another client's adapter, mixture or head in between must not change what a client's model gives."""
    model, adapter = resident
    ids = {"input_ids": torch.arange(4, 24).view(2, 10)}

    def client(labels: int, value: float) -> ClientModel:
        head = initial_head(model.head_modules(labels), 0)
        tensors = {n: torch.full_like(t, value) if "/B/" in n else t for n, t in adapter.tensors.items()}
        return ClientModel(adapter.spec, {**tensors, **head})

    with torch.inference_mode():
        model.load(client(2, 0.1), 2)
        first = model.logits(ids)
        model.load(client(5, -0.3), 5)
        assert model.logits(ids).shape == (2, 5)
        spec = AdapterSpec(**{**vars(adapter.spec), "num_experts": 2, "own": 1, "mixer": "top_m"})
        mixture = {n.rsplit("/", 1)[0] + f"/{e}": t + 0.2 for n, t in adapter.tensors.items() for e in range(2)}
        routers = {f"{m}/G": torch.randn(3, 32) for m in spec.target_modules}
        model.load(ClientModel(spec, {**mixture, **routers, **initial_head(model.head_modules(2), 0)}), 2)
        assert not torch.equal(model.logits(ids), first)
        model.load(client(2, 0.1), 2)
        assert torch.equal(model.logits(ids), first)


def test_loading_refuses_tensors_that_do_not_fit(resident: tuple[ResidentModel, ClientModel]) -> None:
    model, adapter = resident
    tensors = dict(adapter.tensors)
    missing = sorted(tensors)[0]
    del tensors[missing]
    with pytest.raises(ValueError, match=f"missing \\['{missing}'\\]"):
        model.load(ClientModel(adapter.spec, tensors), 2)


def test_nothing_is_loaded_at_first(resident: tuple[ResidentModel, ClientModel]) -> None:
    with pytest.raises(RuntimeError, match="load a client's model first"):
        _ = resident[0].model


@pytest.mark.parametrize("mixer", ["none", "sum", "scalar", "instance", "core", "diagonal", "sparse"])
def test_in_bfloat16_an_adapter_takes_its_input_as_it_is_and_learns_the_same_bits(mixer: Any, tmp_path: Path) -> None:
    """PEFT widens the input to float32, and autocast narrows it again, there and in the backward pass."""
    base = load_base(locate("tiny-random", None, tmp_path / "base", 0), dtype="bfloat16", dropout=False)
    model = ResidentModel(base, torch.device("cpu"), torch.bfloat16)
    adapter = initial_adapter(target_shapes(base, None, 2), r=2, alpha=4, dropout=0.0, seed=0)
    experts = {"scalar": 2, "instance": 2, "sum": 2}.get(mixer, 1)
    spec = replace(adapter.spec, num_experts=experts, mixer=mixer, density=0.1)
    shape = {"scalar": (1,), "core": (2, 2), "diagonal": (2,), "sparse": (102,)}.get(mixer)
    tensors = {n: t + 0.1 * (1 + e) for e in range(experts) for n, t in renumber(adapter.tensors, e).items()}
    tensors |= {f"{module}/G": torch.full(shape, 0.1) for module in spec.target_modules if shape}
    model.load(ClientModel(spec, {**tensors, **initial_head(model.head_modules(2), 0)}), 2)
    model.model.train()
    layers = [layer for layer in model.model.modules() if isinstance(layer, BaseTunerLayer)]

    def gradients(widened: bool) -> list[torch.Tensor]:
        for layer in layers:
            layer.cast_input_dtype_enabled = widened
        learnt = model.train_only(tensors)
        logits = model.logits({"input_ids": torch.arange(4, 24).view(2, 10)})
        return list(torch.autograd.grad(logits.float().square().sum(), learnt))

    assert layers and not any(layer.cast_input_dtype_enabled for layer in layers), "as it is loaded"
    for ours, pefts in zip(gradients(False), gradients(True), strict=True):
        assert bool(ours.any()) and torch.equal(ours, pefts)
