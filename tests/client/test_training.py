"""Training depends on seed, client and round alone, and leaves nothing behind where it stops."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedlease.client.resident import ResidentModel
from fedlease.client.training import Optimiser, Progress, Share, Trainer
from fedlease.core.adapters import initial_adapter, renumber
from fedlease.core.types import ClientModel, ClientTask, LocalTerm, Stage, Tensors
from fedlease.data.federation import Row
from fedlease.errors import UpdateRefusedError
from fedlease.models.base import initial_head, load_base, load_tokenizer
from fedlease.models.sources import locate
from fedlease.models.targets import target_shapes
from fedlease.tasks.classification import Classification
from fedlease.tasks.encoded import Encoded


def small(tmp_path: Path) -> tuple[ResidentModel, Encoded, ClientModel, Tensors]:
    """A resident model, rows, an adapter for it, and a head."""
    source, task = locate("tiny-random", None, tmp_path / "base", 0), Classification(24)
    resident = ResidentModel(load_base(source, dtype="float32", dropout=False), torch.device("cpu"), None, task)
    adapter = initial_adapter(target_shapes(resident._base, None, 2), r=2, alpha=4, dropout=0.0, seed=0)
    rows = task.encode([Row(f"zib {n}", None, n % 2) for n in range(8)], load_tokenizer(source))
    return resident, rows, adapter, initial_head(resident.head_modules(2), 0)


def test_the_order_of_rows_depends_on_seed_client_and_round_alone(tmp_path: Path) -> None:
    resident, rows, adapter, head = small(tmp_path)
    model = ClientModel(adapter.spec, {**adapter.tensors, **head})
    names = adapter.names("AB")

    def trained(seed: int, client: str, round_: int) -> list[float]:
        resident.load(model, 2)
        optimiser = Optimiser(lr=1e-2, weight_decay=0.0, batch_size=2, clip_norm=1.0, threads=1, seed=seed)
        asked = ClientTask("train", round_, model, (Stage(names, 1),), upload=names)
        update = Trainer(resident, optimiser).train(client, asked, rows).update
        return torch.cat([update.tensors[name].flatten() for name in sorted(names)]).tolist()

    first = trained(0, "a", 1)
    assert trained(0, "a", 1) == first
    others = [trained(1, "a", 1), trained(0, "b", 1), trained(0, "a", 2)]
    assert all(found != first for found in others)


@pytest.mark.parametrize(("schedule", "fall"), [("constant", 0), ("linear", 1)])
def test_a_linear_learning_rate_falls_by_equal_steps_within_every_stage(
    schedule: Any, fall: int, tmp_path: Path, monkeypatch: Any
) -> None:
    resident, rows, adapter, head = small(tmp_path)
    inner, rates = torch.optim.AdamW.step, []

    def step(self: Any, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return inner(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    model, names = ClientModel(adapter.spec, {**adapter.tensors, **head}), adapter.names("AB")
    resident.load(model, 2)
    task = ClientTask("train", 1, model, (Stage(names, 2), Stage(names, 1)), upload=names)
    optimiser = Optimiser(
        lr=1e-2, weight_decay=0.0, batch_size=2, clip_norm=1.0, threads=1, seed=0, lr_schedule=schedule
    )
    Trainer(resident, optimiser).train("a", task, rows)
    # Four batches a pass: two passes are n = 8 steps with the rates 8/8 .. 1/8, one pass is 4 with 4/4 .. 1/4.
    expected = [1 - fall * i / 8 for i in range(8)] + [1 - fall * i / 4 for i in range(4)]
    assert [rate / 1e-2 for rate in rates] == pytest.approx(expected)

    # Shares that are pooled are one stage: three times four batches.
    rates.clear()
    parameters = resident.train_only(names)
    shares = {client: Share(rows, torch.Generator(), parameters) for client in "abc"}
    Trainer(resident, optimiser).fit(shares, 1, Progress(12))
    assert [rate / 1e-2 for rate in rates] == pytest.approx([1 - fall * i / 12 for i in range(12)])


@pytest.mark.parametrize("ending", ["nan", "error"])
def test_wherever_training_stops_the_model_is_at_rest(ending: str, tmp_path: Path, monkeypatch: Any) -> None:
    """In the middle of an epoch, too: no dropout, no gradients, and all experts are in the mixture again."""
    resident, rows, adapter, head = small(tmp_path)
    spec = replace(adapter.spec, num_experts=2, mixer="softmax")
    experts = {**renumber(adapter.tensors, 0), **renumber(adapter.tensors, 1)}
    routers = {f"{module}/G": torch.zeros(2, 32) for module in spec.target_modules}
    model = ClientModel(spec, {**experts, **routers, **head})
    inner, batches = Classification.batch_loss, []

    def batch_loss(self: Any, *args: Any) -> Any:
        batches.append(1)
        loss = inner(self, *args)
        if len(batches) == 6:
            if ending == "error":
                loss.backward()
                raise RuntimeError("out of memory")
            loss = loss * float("nan")
        return loss

    monkeypatch.setattr(Classification, "batch_loss", batch_loss)
    resident.load(model, 2)
    names = frozenset(name for name in experts if name.endswith("/0"))
    asked = ClientTask("train", 1, model, (Stage(names, 2, (0,)),), upload=names)
    optimiser = Optimiser(lr=1e-2, weight_decay=0.0, batch_size=2, clip_norm=1.0, threads=1, seed=0)
    with pytest.raises(UpdateRefusedError if ending == "nan" else RuntimeError):
        Trainer(resident, optimiser).train("a", asked, rows)
    assert len(batches) in (6, 7) and not any(module.training for module in resident.model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in resident.parameters.values())
    layers = [module for module in resident.model.modules() if hasattr(module, "fedlease_restricted")]
    assert layers and all(layer.fedlease_restricted["default"] is None for layer in layers)


def test_mean_gradients_are_those_of_the_loss_without_the_term_and_before_clipping(tmp_path: Path) -> None:
    """A learning rate of 0 leaves the weights: the mean over four equal batches is the gradient of all rows at once."""
    resident, rows, adapter, head = small(tmp_path)
    tensors = {name: tensor + 0.1 for name, tensor in adapter.tensors.items()}
    model, names = ClientModel(adapter.spec, {**tensors, **head}), adapter.names("AB")
    resident.load(model, 2)
    term = LocalTerm(1.0, {name: torch.ones_like(tensors[name]) for name in names})
    asked = ClientTask("train", 1, model, (Stage(names, 1),), names, term=term, gradients=True)
    options = Optimiser(lr=0.0, weight_decay=0.0, batch_size=2, clip_norm=1e-6, threads=1, seed=0)
    found = Trainer(resident, options).train("a", asked, rows).update.tensors
    parameters = resident.train_only(names)
    resident.task.batch_loss(resident, rows, list(range(8))).backward()
    assert found.keys() == asked.expected.keys()
    for name, parameter in zip(sorted(names), parameters, strict=True):
        torch.testing.assert_close(found[asked.gradient_names[name]], parameter.grad, atol=1e-7, rtol=1e-4)


def test_the_loss_is_the_mean_over_rows_and_not_over_batches(tmp_path: Path) -> None:
    """A learning rate of 0 leaves the weights: batches of 3, 3 and 2 rows have the mean loss of all 8."""
    resident, rows, adapter, head = small(tmp_path)
    model, names = ClientModel(adapter.spec, {**adapter.tensors, **head}), adapter.names("AB")
    resident.load(model, 2)
    options = Optimiser(lr=0.0, weight_decay=0.0, batch_size=3, clip_norm=1.0, threads=1, seed=0)
    asked = ClientTask("train", 1, model, (Stage(names, 1),), upload=names)
    found = Trainer(resident, options).train("a", asked, rows).update.metrics["loss"]
    assert found == pytest.approx(resident.task.mean_loss(resident, rows, 1), rel=1e-5)
