"""One base model serves clients in turn, and nothing of one is left in the next."""

from pathlib import Path

import pytest
import torch

from fedlease.client.resident import ResidentModel
from fedlease.core.adapters import initial_adapter
from fedlease.core.types import AdapterSpec, ClientModel
from fedlease.models.base import initial_head, load_base, target_shapes
from fedlease.models.sources import locate


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
