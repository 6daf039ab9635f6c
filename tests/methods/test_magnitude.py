"""A private number per rank of the own expert: starts where it changes nothing, is trained, stays at home."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.planted import CLIENTS, adapter, made, train
from small import FinishedRuns, small_run, tensors_of

from fedlease.core.folding import expert_alone, fold
from fedlease.core.types import Budget, ClientModel, TensorName
from fedlease.methods.ranks import WithRanks
from fedlease.runs.runner import resume
from fedlease.use.onboard import onboard
from fedlease.use.open_run import OpenRun

SCALED: dict[str, Any] = {"fedlease.routing": "own", "fedlease.magnitude": 10.0}


def allocated(method: Any) -> Any:
    state = method.init(adapter(), CLIENTS, 0)
    tasks = {client: method.task(state, client) for client in sorted(CLIENTS)}
    assert all(task.model.spec.mixer == "none" for task in tasks.values()), "a warm-up has none"
    return method.aggregate(state, [train(client, task, CLIENTS[client]) for client, task in tasks.items()])


def updates_of(model: ClientModel) -> dict[str, torch.Tensor]:
    """Module -> alpha / r x B diag(G) A."""
    single = fold(model, {})
    scale = single.spec.alpha / single.spec.r
    return {m: scale * single.tensors[f"{m}/B/0"] @ single.tensors[f"{m}/A/0"] for m in single.spec.target_modules}


def cores(model: ClientModel) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.tensors.items() if TensorName.parse(name).kind == "G"}


def test_it_starts_where_it_changes_nothing_and_what_travels_is_the_same() -> None:
    plain, scaled = (made("fedlease", Budget(1, 2), routing="own", magnitude=gain) for gain in (0.0, 4.0))
    before, after = (allocated(method) for method in (plain, scaled))
    for client in CLIENTS:
        task, same = scaled.task(after, client), plain.task(before, client)
        found = cores(task.model)
        # Trained is G / 4, and alpha is 4 times as large.
        assert len(found) == len(task.model.spec.target_modules)
        assert all(core.equal(torch.full((task.model.spec.r,), 0.25)) for core in found.values())
        assert task.model.spec.alpha == 4 * same.model.spec.alpha
        assert task.private == found.keys() and task.upload == same.upload
        assert task.trainable == same.trainable | found.keys()
        first, expected = updates_of(task.model), updates_of(same.model)
        assert all(torch.allclose(first[m], expected[m]) for m in expected)
        alone = updates_of(expert_alone(scaled.model(after, client), 0))
        assert all(torch.allclose(alone[m], expected[m]) for m in expected), "an exported expert is scaled, too"


def test_clients_of_unequal_ranks_have_as_many_as_ranks() -> None:
    own = {"signal": "BA", "average": "product", "min_silhouette": -1, "columns": 1}
    method = WithRanks(made("fedlease", Budget(1, 2), routing="own", magnitude=2.0, **own), 2, {"a1": 1})
    state = allocated(method)
    for client in ("a0", "a1"):
        task = method.task(state, client)
        assert {len(core) for core in cores(task.model).values()} == {method.rank(client)}
        # alpha / r is 4 / 2, times the gain.
        assert task.model.spec.alpha / task.model.spec.r == 4
        assert method.aggregate(state, [train(client, task, CLIENTS[client])]).round == 2


def test_every_client_learns_its_own(finished: FinishedRuns) -> None:
    run = OpenRun(finished(**SCALED).out)
    found = {client: torch.cat(list(cores(run.model(client)).values())) for client in run.clients}
    assert all(bool((core != 0.1).all()) for core in found.values()), "every number has learnt"
    clients = sorted(found)
    assert not any(found[a].equal(found[b]) for i, a in enumerate(clients) for b in clients[:i])
    kinds = {TensorName.parse(name).kind for expert in run.saved.state.experts for name in expert}
    assert kinds == {"A", "B"}, "nothing of it has reached the server"


def test_a_run_with_it_is_resumed_to_the_bit(
    finished: FinishedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    real, out = os.replace, tmp_path / "r"

    def replace(source: Any, target: Any) -> None:
        real(source, target)
        if Path(target).name == "manifest.json" and json.loads(Path(target).read_text())["round"] == 2:
            raise Crash

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Crash):
        small_run(out, **SCALED)
    monkeypatch.setattr(os, "replace", real)
    resume(out)
    assert tensors_of(out) == tensors_of(finished(**SCALED).out)


def test_a_newcomer_trains_its_own(finished: FinishedRuns, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished(**SCALED).out, tmp_path / "r"))
    rows = tmp_path / "rows"
    rows.mkdir()
    for split, count in (("train", 8), ("test", 4)):
        lines = [json.dumps({"text": f"row {i}", "label": ["no", "yes"][i % 2]}) for i in range(count)]
        (rows / f"{split}.jsonl").write_text("\n".join(lines))
    onboard(OpenRun(out), "late", rows, epochs=1)
    found = OpenRun(out).model("late")
    assert found.spec.mixer == "magnitude" and all(bool((core != 0.1).any()) for core in cores(found).values())
