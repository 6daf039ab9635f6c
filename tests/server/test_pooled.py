"""The ceiling: rows pooled, one adapter, heads of clients apart; held against a loop over plain PyTorch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import rounds_of, small_run, tensors_of

from fedlease.core.seeds import generator
from fedlease.core.types import head_names
from fedlease.errors import RunFailedError
from fedlease.methods.registry import METHODS, known_methods
from fedlease.runs.runner import resume
from fedlease.server.pooled import Pooled
from fedlease.storage.checkpoint import Checkpoint
from fedlease.tasks import classification
from fedlease.tasks.encoded import training_batches
from fedlease.use.open_run import OpenRun


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("centralised") / "run", method="centralised", baselines=["fedit"]).out


def test_it_is_known_by_name_and_is_no_federated_method() -> None:
    assert "centralised" in known_methods()
    assert "centralised" not in METHODS


def test_everyone_ends_with_one_adapter_and_a_head_of_its_own(out: Path) -> None:
    run = OpenRun(out)
    one, two = (run.model(client).tensors for client in sorted(run.clients)[:2])
    heads = head_names(one)
    assert all(torch.equal(one[name], two[name]) for name in one.keys() - heads)
    assert not any(torch.equal(one[name], two[name]) for name in heads)
    start = Checkpoint(out / "baselines" / "fedit").load()
    assert start is not None
    assert not torch.equal(one[min(one.keys() - heads)], start.state.inner.adapter.tensors[min(one.keys() - heads)]), (
        "pooled steps are not the mean of clients' steps"
    )


def test_it_gets_the_budget_of_the_others_and_moves_no_adapter(out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    other = json.loads((out / "baselines/fedit/summary.json").read_text())
    assert summary["passes"] == other["passes"]
    assert summary["bytes_up"] == summary["bytes_down"] == summary["head_bytes_up"] == 0
    for mine, theirs in zip(rounds_of(out), rounds_of(out / "baselines/fedit"), strict=True):
        steps = [{client: entry["steps"] for client, entry in r["clients"].items()} for r in (mine, theirs)]
        assert steps[0] == steps[1]
    # Both begin with the untrained model.
    scores = [[e["score"] for e in rounds_of(f)[0]["clients"].values()] for f in (out, out / "baselines/fedit")]
    assert scores[0] == scores[1]


def test_a_pooled_round_is_the_plain_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round, against autograd over the same batches with one optimiser and the heads taken by hand."""
    seen: dict[str, Any] = {}
    inner = Pooled.send

    def spy(self: Pooled, requests: Any) -> Any:
        seen.setdefault(
            "start", (self, {client: getattr(request, "task", None) for client, request in requests.items()})
        )
        return inner(self, requests)

    monkeypatch.setattr(Pooled, "send", spy)
    out = small_run(tmp_path / "r", method="centralised", baselines=[], rounds=0, warmup__epochs=1, seed=3).out
    pooled, tasks = seen["start"]
    clients = {client: worker.client for client, worker in pooled.workers.items()}
    trainer = pooled.trainer
    found = {client: OpenRun(out).model(client).tensors for client in clients}

    first = next(iter(tasks.values()))
    values = {n: torch.nn.Parameter(t.clone()) for n, t in first.model.tensors.items() if n not in head_names({n: t})}
    heads = {
        client: {n: torch.nn.Parameter(task.model.tensors[n].clone()) for n in head_names(task.model.tensors)}
        for client, task in tasks.items()
    }
    everything = [*values.values(), *(p for head in heads.values() for p in head.values())]
    optimiser, resident = trainer.optimiser, trainer.resident
    adamw = torch.optim.AdamW(everything, lr=optimiser.lr, weight_decay=optimiser.weight_decay)
    order = generator(optimiser.seed, "pooled", 1)
    batches = []
    for client in sorted(tasks):
        rng = generator(optimiser.seed, "batches", client, 1, 0)
        rows = clients[client].train
        batches += [(client, batch) for batch in training_batches(rows.lengths, optimiser.batch_size, rng)]
    for i in torch.randperm(len(batches), generator=order).tolist():
        client, batch = batches[i]
        current = {**values, **heads[client]}
        resident.load(tasks[client].model, len(clients[client].data.labels), current)
        resident.train_only(current)
        resident.model.train()
        inputs, labels = classification.collate(clients[client].train, batch, torch.device("cpu"))
        resident.model.zero_grad()
        classification.loss(resident.logits(inputs), labels).backward()
        for name, parameter in current.items():
            parameter.grad = resident.parameters[name].grad.clone()
        if optimiser.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(current.values()), optimiser.clip_norm)
        adamw.step()
        adamw.zero_grad()
    for client, tensors in found.items():
        for name, tensor in {**values, **heads[client]}.items():
            torch.testing.assert_close(tensors[name], tensor.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["centralised", "fedit", "fedtreelora"])
def test_every_module_is_in_training_mode_at_every_step(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads are swapped in between: one that was scored before it was swapped out has its dropout switched off."""
    off: list[str] = []
    inner = classification.Classification.batch_loss

    def batch_loss(task: Any, resident: Any, rows: Any, batch: Any) -> Any:
        off.extend(name for name, module in resident.model.named_modules() if not module.training)
        return inner(task, resident, rows, batch)

    monkeypatch.setattr(classification.Classification, "batch_loss", batch_loss)
    small_run(tmp_path / "r", method=method, baselines=[], rounds=1)
    assert off == []


def test_a_head_that_is_put_in_place_takes_the_mode_of_the_model(out: Path) -> None:
    run = OpenRun(out)
    heads = [run.resident.head_modules(number) for number in (2, 3, 2, 4)]
    run.load(min(run.clients))
    for training in (False, True, False):
        run.resident.model.train(training)
        for modules in heads:
            run.resident.use_head(modules)
            assert all(module.training == training for module in run.resident.model.modules())


def test_where_clients_are_sampled_it_makes_the_passes_of_the_others(tmp_path: Path) -> None:
    """E, R, local epochs = 1, 2, 2: one pass by everyone, then two by one client and two by another."""
    changes: dict[str, Any] = {"data__clients_per_task": 1, "train__local_epochs": 2, "clients_per_round": 1}
    out = small_run(tmp_path / "r", method="centralised", baselines=["fedit"], **changes).out
    mine, theirs = (
        [
            {client: row["steps"] for client, row in record["clients"].items() if "steps" in row}
            for record in rounds_of(f)
        ]
        for f in (out, out / "baselines/fedit")
    )
    assert mine == theirs
    assert [len(asked) for asked in mine] == [4, 1, 1]
    (one,) = {steps for steps in mine[0].values()}
    assert [sum(asked.values()) for asked in mine] == [4 * one, 2 * one, 2 * one]
    # Whoever was not asked keeps its head and has the shared adapter of all.
    run = OpenRun(out)
    models = [run.model(client).tensors for client in sorted(run.clients)]
    assert all(
        torch.equal(models[0][n], other[n]) for other in models for n in models[0].keys() - head_names(models[0])
    )


def test_interrupted_it_goes_on_to_the_same_tensors(tmp_path: Path, out: Path) -> None:
    class Stop(Exception):
        pass

    def stop(event: Any) -> None:
        if type(event).__name__ == "StepFinished" and event.method == "centralised" and event.record["round"] == 2:
            raise Stop

    with pytest.raises(Stop):
        small_run(tmp_path / "r", [stop], method="centralised", baselines=[])
    resume(tmp_path / "r")
    assert tensors_of(tmp_path / "r") == tensors_of(out)
    assert json.loads((tmp_path / "r/row_scores.json").read_text()) == json.loads((out / "row_scores.json").read_text())


@pytest.mark.parametrize("head", ["frozen", "shared"])
def test_other_head_policies(head: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"head": head, "rounds": 1, "baselines": [], "method": "centralised"}
    if head == "shared":
        from small import own_rows

        changes["data__path"] = str(own_rows(tmp_path / "data"))
    run = OpenRun(small_run(tmp_path / "r", **changes).out)
    one, two = (run.model(client).tensors for client in sorted(run.clients)[:2])
    heads = head_names(one)
    if head == "shared":
        assert all(torch.equal(one[name], two[name]) for name in heads)
    else:
        fresh = run.policy.heads[min(run.clients)].tensors
        assert all(torch.equal(one[name], fresh[name]) for name in heads)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = classification.loss
    monkeypatch.setattr(classification, "loss", lambda *given: honest(*given) * float("nan"))
    with pytest.raises(RunFailedError, match="pooled training: loss is nan in epoch 1, step 1, on rows of 'planted-"):
        small_run(tmp_path / "r", method="centralised", baselines=[])
