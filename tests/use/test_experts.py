"""An expert's number means the same everywhere: allocation, export, scores, and what a newcomer is compared to."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small import EVERY, FinishedRuns, small_run

from fedlease.core.types import HEAD, TensorName
from fedlease.errors import ConfigError
from fedlease.methods.registry import known_methods
from fedlease.tasks.classification import Classification
from fedlease.use.experts import experts_of
from fedlease.use.export import Exporter
from fedlease.use.onboard import onboard
from fedlease.use.open_run import OpenRun

WITH = {"fedlease", "fedlease-plus", "fedtreelora", "ifca"}
WITHOUT = set(known_methods()) - WITH
"""Methods whose adapters belong to everyone, or to one client."""


@pytest.fixture(scope="module")
def out(finished: FinishedRuns) -> Path:
    return finished(**EVERY).out


def held(run: OpenRun, expert: int, client: str) -> dict[str, torch.Tensor]:
    """The adapter of an expert in the method's own state, as expert 0."""
    state = run.saved.state.inner
    if run.method in ("fedlease", "fedlease-plus"):
        return dict(state.experts[expert])
    if run.method == "ifca":
        return dict(state.candidates[expert])
    assert state.layers[-1].labels[client] == expert
    parts = [groups[layer.labels[client]] for layer, groups in zip(state.layers, state.groups, strict=True)]
    return {name: tensor for part in parts for name, tensor in part.items()}


def written(folder: Path) -> dict[str, torch.Tensor]:
    """What stock PEFT finds, under our names."""
    found = {}
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        module, _, kind = name.removeprefix("base_model.model.").removesuffix(".weight").partition(".lora_")
        found[str(TensorName(module, kind, 0))] = tensor
    return found


@pytest.mark.parametrize("method", sorted(WITH))
def test_expert_k_is_the_one_of_its_clients_beside_its_own_scores(method: str, out: Path, tmp_path: Path) -> None:
    run = OpenRun(out, method)
    exporter, summary = Exporter(run), json.loads((folder_of(out, method) / "summary.json").read_text())
    experts = experts_of(exporter.run)
    assert len(experts) > 1, "the law is empty with one expert"
    if method != "ifca":
        assert {client: expert for expert, members in experts.items() for client in members} == summary["assignment"]
    for expert, members in experts.items():
        exporter.expert(expert, tmp_path / str(expert))
        found = written(tmp_path / str(expert))
        for client in members:
            expected = held(run, expert, client)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)
        content = json.loads((tmp_path / str(expert) / "scores.json").read_text())
        rows = summary["per_client"]
        assert content["expert"] == expert and content["clients"] == members
        assert content["scores_with_each_clients_own_head"] == {
            client: rows[client].get("own_expert", rows[client]["accuracy"]) for client in members
        }
    different = [written(tmp_path / str(expert)) for expert in experts]
    assert any(not torch.equal(different[0][name], different[1][name]) for name in different[0])


@pytest.mark.parametrize("method", sorted(WITH | WITHOUT))
def test_other_numbers_are_one_sentence_and_leave_nothing(method: str, out: Path, tmp_path: Path) -> None:
    exporter = Exporter(OpenRun(out, method), scores=False)
    experts = list(experts_of(exporter.run))
    assert bool(experts) == (method in WITH)
    for wrong in {-1, 0, 1, 2, 99} - set(experts):
        with pytest.raises(ConfigError) as caught:
            exporter.expert(wrong, tmp_path / "x")
        assert caught.value.faults == (f"expert: the run has {experts or 'no experts'}, received {wrong}",)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "changes"),
    [("fedlease", {}), ("fedlease", {"fedlease__routing": "own"}), ("fedtreelora", {"fedtreelora__tau": -1})],
)
def test_a_newcomer_is_compared_with_every_expert_under_its_number(
    method: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OpenRun(small_run(tmp_path / "r", method=method, baselines=[], rounds=1, **changes).out)
    rows = tmp_path / "late"
    rows.mkdir()
    for split in ("train", "test"):
        lines = [json.dumps({"text": f"a planted text {i}", "label": ["no", "yes"][i % 2]}) for i in range(6)]
        (rows / f"{split}.jsonl").write_text("\n".join(lines))
    scored: list[dict[str, torch.Tensor]] = []
    inner = Classification.measure

    def measure(task: Classification, resident: Any, rows: Any, threads: int) -> Any:
        scored.append(resident.read(resident.parameters))
        return inner(task, resident, rows, threads)

    monkeypatch.setattr(Classification, "measure", measure)
    found = onboard(run, "late", rows, epochs=0)
    experts = experts_of(run)
    assert len(experts) > 1
    labels = [name for name in found.scores if name.startswith("expert ")]
    assert labels == [f"expert {expert} alone" for expert in experts]
    # Nothing is measured for the naive score: the first two are of the untrained model and of the warm-up.
    for (expert, members), tensors in zip(experts.items(), scored[2:], strict=False):
        adapter = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{HEAD}/")}
        expected = held(run, expert, members[0])
        assert adapter.keys() == expected.keys()
        assert all(torch.equal(adapter[name], expected[name]) for name in expected)
    own = found.placement.expert
    if changes.get("fedlease__routing") == "own":
        assert found.scores[f"expert {own} alone"] == found.scores["on arrival"]


def folder_of(out: Path, method: str) -> Path:
    return out if method == "fedlease" else out / "baselines" / method
