"""The round loop: what a run writes, that it repeats, who is asked, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import EIGHT, WHOLE, own_rows, rounds_of, scores_of, small_run, small_settings, tensors_of

import fedlease
from fedlease.client.messages import Train
from fedlease.client.resident import ResidentModel
from fedlease.client.training import Trainer
from fedlease.core.codec import loads
from fedlease.core.types import AdapterSpec, ClientModel, ClientTask, Stage
from fedlease.errors import ConfigError, ModelError, RunFailedError, RunFolderError, UpdateRefusedError
from fedlease.models.tiny import make_tiny
from fedlease.reporting.run.reading import read_run
from fedlease.server.events import Allocated, ClientFinished, Event, StepStarted, UpdateRefused
from fedlease.server.transport import Traffic


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event], dict[str, Any]]:
    events: list[Event] = []
    out = tmp_path_factory.mktemp("run") / "r"
    result = small_run(out, [events.append], **WHOLE)
    return out, events, result.summaries


def test_a_run_writes_the_files_of_the_design(finished: tuple[Path, list[Event], dict[str, Any]]) -> None:
    out, _, _ = finished
    expected = {
        "config.yaml", "environment.json", "clients.json", "allocation.json", "allocation.safetensors",
        "rounds.jsonl", "summary.json", "state", "base", "baselines", "report.html", "row_scores.json",
        "predictions.jsonl", "audit.jsonl",
        "files.json", ".lock", ".report.lock",
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} == expected
    described = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text(encoding="utf-8")
    assert not [name for name in expected if f"`{name}" not in described]
    for method in ("fedit", "local"):
        names = {path.name for path in (out / "baselines" / method).iterdir()}
        assert names == {"rounds.jsonl", "summary.json", "row_scores.json", "predictions.jsonl", "state"}
    assert not list(out.rglob("*.tmp"))
    manifest = json.loads((out / "state" / "manifest.json").read_text())
    named = {manifest["state"]["file"]} | {e["file"] for slots in manifest["clients"].values() for e in slots.values()}
    named |= {manifest["seen"]["file"], "manifest.json"}
    assert {path.name for path in (out / "state").iterdir()} == named
    assert manifest["finished"] is True


def test_the_same_seed_gives_the_same_tensors_and_scores(
    finished: tuple[Path, list[Event], dict[str, Any]], tmp_path: Path
) -> None:
    out, _, summaries = finished
    again = small_run(tmp_path / "again", **EIGHT)
    other = small_run(tmp_path / "other", **EIGHT, seed=1, rounds=0)
    assert tensors_of(out) == tensors_of(again.out)
    # The verdict is of all methods of a run.
    mine, theirs = ({**scores_of(of["fedlease"]), "verdict": None} for of in (summaries, again.summaries))
    assert mine == theirs
    warmups = [rounds_of(folder)[0]["clients"] for folder in (out, other.out)]
    assert all(row["loss"] != warmups[1][client]["loss"] for client, row in warmups[0].items())


def test_a_method_run_alone_gives_what_it_gives_beside_others(
    finished: tuple[Path, list[Event], dict[str, Any]], tmp_path: Path
) -> None:
    """The work cache shares warm-ups between methods; without it the bits must be the same."""
    out, events, _ = finished
    assert any(isinstance(e, ClientFinished) and e.method == "local" and e.reused for e in events)
    alone = small_run(tmp_path / "local", method="local", **EIGHT)
    assert tensors_of(out / "baselines" / "local") == tensors_of(alone.out)


def test_every_method_gets_the_same_number_of_passes(finished: tuple[Path, list[Event], dict[str, Any]]) -> None:
    out, _, summaries = finished
    settings = small_settings()
    steps_per_pass = -(-12 // settings.train.batch_size)
    for method, summary in summaries.items():
        folder = out if method == "fedlease" else out / "baselines" / method
        steps: dict[str, int] = {}
        for record in rounds_of(folder):
            for client, row in record["clients"].items():
                steps[client] = steps.get(client, 0) + row["steps"]
        assert set(steps.values()) == {summary["passes"] * steps_per_pass}


def test_bytes_are_those_of_the_arithmetic(finished: tuple[Path, list[Event], dict[str, Any]]) -> None:
    """Tiny model: 4 modules of 32 x 32, r = 4: one expert 4 x 4 x 64 = 1,024 parameters, a router 4 x (2M - 1) x 32."""
    _, _, summaries = finished
    clients, rounds, bytes_each = 8, 2, 4
    m = summaries["fedlease"]["num_experts"]
    assert m >= 2
    expert, router = 1024, 4 * (2 * m - 1) * 32
    up = clients * expert + rounds * clients * (expert + router)
    down = clients * expert + rounds * clients * (m * expert + router)
    assert summaries["fedlease"]["bytes_up"] == bytes_each * up
    assert summaries["fedlease"]["bytes_down"] == bytes_each * down
    assert summaries["fedit"]["bytes_up"] == summaries["fedit"]["bytes_down"] == bytes_each * 3 * clients * expert
    assert summaries["local"]["bytes_up"] == summaries["local"]["bytes_down"] == 0
    assert all(summary["head_bytes_up"] == 0 for summary in summaries.values()), "heads are local"


def test_the_model_that_travels_with_candidates_is_one_of_them() -> None:
    """One tensor of 12 bytes in the model and in each of two candidates."""
    adapter = {"m/B/0": torch.zeros(3)}
    model = ClientModel(AdapterSpec(1, 1, 0.0, ("m",)), adapter, (adapter, adapter))
    names, traffic = frozenset(adapter), Traffic()
    traffic.request(Train("ifca", 1, ClientTask("candidates", 1, model, (Stage(names, 1),), names)))
    assert traffic.take()["bytes_down"] == 24


def test_a_round_is_scored_on_receipt(finished: tuple[Path, list[Event], dict[str, Any]]) -> None:
    """Round 0 is scored before anything is trained, so its mean is the untrained model's."""
    out, _, summaries = finished
    first, *rest = rounds_of(out)
    assert first["mean_score"] == pytest.approx(summaries["fedlease"]["bare_base_mean"])
    assert [record["round"] for record in [first, *rest]] == [0, 1, 2]
    assert rounds_of(out / "baselines" / "fedit")[0]["mean_score"] == pytest.approx(first["mean_score"])


def test_summary_means_are_those_of_its_rows(finished: tuple[Path, list[Event], dict[str, Any]]) -> None:
    _, _, summaries = finished
    for summary in summaries.values():
        rows = summary["per_client"].values()
        assert summary["mean"] == pytest.approx(sum(row["accuracy"] for row in rows) / len(rows))
        for task, value in summary["per_task"].items():
            scores = [row["accuracy"] for row in rows if row["task"] == task]
            assert value == pytest.approx(sum(scores) / len(scores))
        worst = summary["worst_client"]
        assert worst["accuracy"] == min(row["accuracy"] for row in rows)
        assert summary["per_client"][worst["client"]]["accuracy"] == worst["accuracy"]


def test_allocation_is_told_once_and_written(finished: tuple[Path, list[Event], dict[str, Any]]) -> None:
    out, events, summaries = finished
    told = [event for event in events if isinstance(event, Allocated)]
    assert len(told) == 1
    written = json.loads((out / "allocation.json").read_text())
    assert written["assignment"] == told[0].allocation.assignment == summaries["fedlease"]["assignment"]
    assert len(written["distances"]) == 8


@pytest.mark.parametrize("head", ["shared", "frozen"])
def test_head_policies_end_to_end(head: str, tmp_path: Path) -> None:
    rows = own_rows(tmp_path / "rows")
    summaries = small_run(tmp_path / head, head=head, baselines=["fedit"], data__path=str(rows)).summaries
    assert (summaries["fedlease"]["head_bytes_up"] > 0) == (head == "shared")
    manifest = json.loads((tmp_path / head / "state" / "manifest.json").read_text())
    assert all("head" not in slots for slots in manifest["clients"].values()), "no head is private"


def test_sharing_heads_of_unequal_label_lists_is_refused(tmp_path: Path) -> None:
    """The planted federation has a task with three labels; fedit's one group holds it and the others."""
    with pytest.raises(ConfigError, match=r"head: 'shared' needs equal label lists within a group"):
        small_run(tmp_path / "r", baselines=["fedit"], head="shared")
    assert not (tmp_path / "r").exists(), "refused before anything is written"


def test_sampling_asks_everyone_once_and_then_samples(tmp_path: Path) -> None:
    events: list[Event] = []
    small_run(tmp_path / "r", [events.append], clients_per_round=3, **EIGHT, rounds=3)
    steps = [event for event in events if isinstance(event, StepStarted)]
    warmup = [client for step in steps if step.round == 0 for client in step.clients]
    assert len(warmup) == len(set(warmup)) == 8
    assert [len(step.clients) for step in steps] == [3, 3, 2, 3, 3, 3]
    sampled = [step.clients for step in steps if step.round > 0]
    assert len(set(sampled)) > 1, "different rounds draw different clients"
    last = rounds_of(tmp_path / "r")[-1]
    assert len(last["clients"]) == 8, "everyone is scored, eval_every = 1"


def poison(monkeypatch: pytest.MonkeyPatch, client: str, rounds: set[int], how: str) -> None:
    """Makes one client's local step fail, or its update NaN, in some rounds."""
    honest = Trainer.train

    def step(self: Trainer, who: str, task: Any, *args: Any) -> Any:
        result = honest(self, who, task, *args)
        if who == client and task.round in rounds:
            if how == "loss":
                raise UpdateRefusedError(who, "loss is nan in epoch 1, step 1")
            for tensor in result.update.tensors.values():
                tensor.view(-1)[0] = float("nan") if how == "nan" else float("inf")
        return result

    monkeypatch.setattr(Trainer, "train", step)


@pytest.mark.parametrize("how", ["loss", "nan", "inf"])
def test_a_spoilt_update_is_refused_by_name_and_never_averaged(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, "planted-0-0", {1}, how)
    events: list[Event] = []
    result = small_run(tmp_path / "r", [events.append], **EIGHT)
    refused = [event for event in events if isinstance(event, UpdateRefused)]
    assert [(event.client, event.round) for event in refused] == [("planted-0-0", 1)]
    record = next(r for r in rounds_of(result.out) if r["round"] == 1)
    reason = record["refused"]["planted-0-0"]
    assert "nan" in reason.lower() or "infinite" in reason
    manifest = json.loads((result.out / "state" / "manifest.json").read_text())
    state = loads((result.out / "state" / manifest["state"]["file"]).read_bytes())
    for expert in (*state.experts, *state.inner.inner.routers):
        assert all(bool(torch.isfinite(tensor).all()) for tensor in expert.values())
    assert result.summary["num_clients"] == 8


def test_a_client_that_fails_both_warmups_joins_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, "planted-0-0", {0}, "nan")
    events: list[Event] = []
    result = small_run(tmp_path / "r", [events.append], **EIGHT, rounds=3)
    records = rounds_of(result.out)
    assert [r["round"] for r in records] == [0, 0, 1, 2, 3]
    assert [sorted(r["refused"]) for r in records[:2]] == [["planted-0-0"]] * 2
    allocation = json.loads((tmp_path / "r" / "allocation.json").read_text())
    assert "planted-0-0" not in allocation["assignment"], "the allocation was made without it"
    assert "planted-0-0" in result.summary["assignment"], "and it was placed since"
    assert any("planted-0-0" in warning and "came late" in warning for warning in result.summary["warnings"])
    assert "planted-0-0" in result.summary["per_client"]
    # Its warm-up is a part of round 1 and does not give the round its name, although its id sorts first.
    phases = ["warmup", "warmup", "experts + warmup", "experts", "experts"]
    assert [r["phase"] for r in records] == phases
    assert [event.phase for event in events if isinstance(event, StepStarted)] == phases
    assert [step.phase for step in read_run(result.out).main.steps] == phases
    warmed = [(r["round"], c) for r in records for c, row in r["clients"].items() if row.get("phase") == "warmup"]
    assert warmed == [(1, "planted-0-0")]
    finished = {e.client: e.phase for e in events if isinstance(e, ClientFinished) and e.round == 1}
    assert {client for client, phase in finished.items() if phase == "warmup"} == {"planted-0-0"}


@pytest.mark.parametrize("local_epochs", [1, 2])
def test_curves_stand_at_the_passes_that_came_before(local_epochs: int, tmp_path: Path) -> None:
    """E = 1, R = 1: a method without a warm-up has made 0, 1 and 1 + local epochs passes."""
    out = small_run(tmp_path / "r", method="fedit", rounds=1, train__local_epochs=local_epochs).out
    steps = [{row["steps"] for row in record["clients"].values()} for record in rounds_of(out)]
    assert [max(of) // min(steps[0]) for of in steps] == [1, local_epochs]
    assert [point.passes for point in read_run(out).main.points] == [0, 1, 1 + local_epochs]


def test_too_few_usable_updates_stop_the_run_with_the_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, "planted-0-0", {1}, "nan")
    with pytest.raises(RunFailedError, match=r"round 1: 7 usable updates, min_clients asks for 8. planted-0-0: "):
        small_run(tmp_path / "r", **EIGHT, min_clients=8)


def test_a_private_tensor_that_is_not_finite_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local training uploads nothing: what would spoil only the client itself must not be kept either."""
    honest = ResidentModel.read

    def read(self: ResidentModel, names: Any) -> dict[str, torch.Tensor]:
        tensors = honest(self, names)
        if any(name.endswith("/B/0") for name in tensors):
            tensors["head/classifier.bias"] = torch.full((2,), float("inf"))
        return tensors

    monkeypatch.setattr(ResidentModel, "read", read)
    with pytest.raises(RunFailedError, match=r"head/classifier\.bias holds values that are NaN or infinite"):
        small_run(tmp_path / "r", method="local", baselines=())


def test_a_base_in_16_bits_runs_and_learns_in_32(tmp_path: Path) -> None:
    out = small_run(tmp_path / "r", dtype="bfloat16", rounds=1).out
    manifest = json.loads((out / "state" / "manifest.json").read_text())
    state = loads((out / "state" / manifest["state"]["file"]).read_bytes())
    assert {t.dtype for expert in state.inner.experts for t in expert.values()} == {torch.float32}
    assert all(bool((t != 0).any()) for expert in state.inner.experts for t in expert.values())


def test_a_round_that_fails_leaves_its_reasons_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, "planted-0-0", {0}, "loss")
    with pytest.raises(RunFailedError, match="round 0"):
        small_run(tmp_path / "r", **EIGHT, min_clients=8)
    (line,) = rounds_of(tmp_path / "r")
    assert line["round"] == 0
    assert line["refused"] == {"planted-0-0": "loss is nan in epoch 1, step 1"}


def test_a_model_made_for_a_refused_run_is_not_used_by_the_next(tmp_path: Path) -> None:
    """The tiny model depends on the seed; one left behind by a run that never began would change the next."""
    with pytest.raises(ModelError, match=r"lora\.r: must be at most 32"):
        small_run(tmp_path / "r", lora__r=999)
    again = small_run(tmp_path / "r", seed=3, rounds=0)
    other = small_run(tmp_path / "other", seed=3, rounds=0)
    weights = "base/model.safetensors"
    assert (again.out / weights).read_bytes() == (other.out / weights).read_bytes()


def test_a_model_folder_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny(tmp_path / "here" / "model", 0)
    monkeypatch.chdir(tmp_path / "here")
    out = small_run(tmp_path / "r", model="./model", rounds=0).out
    monkeypatch.chdir("/")
    assert fedlease.load(out, "planted-0-0").config.id2label


def test_out_that_holds_a_run_is_left_alone(finished: tuple[Path, list[Event], dict[str, Any]]) -> None:
    out, _, _ = finished
    before = tensors_of(out)
    with pytest.raises(RunFolderError, match="already holds a run; go on with: fedlease resume"):
        small_run(out)
    assert tensors_of(out) == before
