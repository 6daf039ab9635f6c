"""A newcomer: warmed up as it would have been in the run, placed by that, and nobody else is touched."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from small import EIGHT, SMALL, small_run

import fedlease
from fedlease.config.settings import resolve
from fedlease.core.types import TensorName
from fedlease.data.load import load_federation
from fedlease.data.sources.folder import write_folder
from fedlease.errors import ConfigError, DataError, RunFailedError
from fedlease.use.experts import experts_of
from fedlease.use.export import Exporter
from fedlease.use.onboard import onboard
from fedlease.use.open_run import OpenRun

LATE = "planted-1-1"


@pytest.fixture(scope="module")
def everyone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted federation as files."""
    federation = load_federation(resolve(preset="smoke", overrides={**SMALL, **EIGHT}).data, seed=0)
    return write_folder(federation, tmp_path_factory.mktemp("data") / "everyone")


@pytest.fixture(scope="module")
def some(everyone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all clients but one."""
    home = tmp_path_factory.mktemp("some")
    shutil.copytree(everyone, home / "some", ignore=shutil.ignore_patterns(LATE))
    return small_run(home / "r", baselines=["fedit"], data__path=str(home / "some")).out


@pytest.fixture
def out(some: Path, tmp_path: Path) -> Path:
    """A copy of it, to be written to."""
    return Path(shutil.copytree(some, tmp_path / "r"))


def hashes(out: Path) -> dict[str, str]:
    """Of what the run wrote; the index of all files names the newcomer's too, and the report shows it."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and "onboarded" not in path.parts and path.name not in ("report.html", "files.json")
    }


def test_its_warm_up_is_the_one_it_would_have_had_in_the_run(out: Path, everyone: Path, tmp_path: Path) -> None:
    # In a run of everyone the newcomer is a client like others; the distances of its allocation hold its warm-up B.
    whole = small_run(tmp_path / "whole", baselines=[], data__path=str(everyone)).out
    reference = json.loads((whole / "allocation.json").read_text())
    found = onboard(OpenRun(out), LATE, everyone / LATE)
    some = json.loads((out / "allocation.json").read_text())["assignment"]
    row = dict(zip(reference["clients"], reference["distances"][reference["clients"].index(LATE)], strict=True))
    for expert, distance in enumerate(found.placement.distances):
        members = [client for client, own in some.items() if own == expert]
        # d is 1 - a mean of cosines, so the distance to a mean of unit vectors is the mean of the distances.
        assert distance == pytest.approx(sum(row[m] for m in members) / len(members), abs=1e-5)
    assert found.placement.expert == min(
        range(len(found.placement.distances)), key=found.placement.distances.__getitem__
    )


def test_nothing_of_the_run_changes(out: Path, everyone: Path) -> None:
    before = hashes(out)
    onboard(OpenRun(out), LATE, everyone / LATE)
    assert hashes(out) == before
    assert {path.name for path in (out / "onboarded" / LATE).iterdir()} == {"onboarding.json", "model.safetensors"}
    assert [path.name for path in (out / "onboarded").iterdir()] == [LATE]


def test_it_gets_its_experts_model_and_trains_its_own_copy(out: Path, everyone: Path) -> None:
    found = onboard(OpenRun(out), LATE, everyone / LATE, epochs=1)
    run = OpenRun(out)
    own = found.placement.expert
    member = experts_of(run)[own][0]
    theirs, mine = run.model(member), run.model(LATE)
    assert mine.spec == theirs.spec and mine.spec.own == own
    for name, tensor in mine.tensors.items():
        parsed = TensorName.parse(name)
        trained = parsed.expert == own or parsed.kind == "G" or parsed.module == "head"
        assert torch.equal(tensor, theirs.tensors[name]) != trained, name


def test_without_local_epochs_only_the_head_is_its_own(out: Path, everyone: Path) -> None:
    found = onboard(OpenRun(out), LATE, everyone / LATE, epochs=0)
    assert found.scores["on arrival"] == found.scores["after 0 local epochs"]
    run = OpenRun(out)
    member = experts_of(run)[found.placement.expert][0]
    theirs, mine = run.model(member), run.model(LATE)
    differ = {n for n, t in mine.tensors.items() if not torch.equal(t, theirs.tensors[n])}
    assert differ and all(TensorName.parse(name).module == "head" for name in differ)


def test_its_last_score_is_that_of_the_model_that_is_served(out: Path, everyone: Path) -> None:
    found = onboard(OpenRun(out), LATE, everyone / LATE)
    model, tokenizer = fedlease.load(out, LATE), fedlease.tokenizer(out)
    rows = [json.loads(line) for line in (everyone / LATE / "test.jsonl").read_text().splitlines()]
    batch = tokenizer([r["text"] for r in rows], padding=True, truncation=True, max_length=24, return_tensors="pt")
    with torch.inference_mode():
        best = model(**batch).logits.argmax(-1).tolist()
    right = sum(model.config.id2label[b] == str(r["label"]) for b, r in zip(best, rows, strict=True))
    content = json.loads((out / "onboarded" / LATE / "onboarding.json").read_text())
    assert content["scores"] == found.scores
    assert right / len(rows) == found.scores["after 2 local epochs"]
    experts = OpenRun(out).model(LATE).spec.num_experts
    assert list(found.scores) == [
        "majority class",
        "untrained",
        "own warm-up",
        *(f"expert {e} alone" for e in range(experts)),
        "on arrival",
        "after 2 local epochs",
    ]


def test_the_same_call_gives_the_same_model(out: Path, everyone: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "copy")
    onboard(OpenRun(out), LATE, everyone / LATE)
    onboard(OpenRun(tmp_path / "copy"), LATE, everyone / LATE)
    files = [folder / "onboarded" / LATE / "model.safetensors" for folder in (out, tmp_path / "copy")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_newcomer_is_exported_with_scores(out: Path, everyone: Path, tmp_path: Path) -> None:
    found = onboard(OpenRun(out), LATE, everyone / LATE)
    Exporter(OpenRun(out)).client(LATE, tmp_path / "x")
    content = json.loads((tmp_path / "x" / "scores.json").read_text())
    assert content["scores"]["routed"] == found.scores["after 2 local epochs"]


def test_ids_and_methods_that_cannot_be(out: Path, everyone: Path) -> None:
    with pytest.raises(ConfigError, match="the run has a client 'planted-0-0' already, received 'Planted-0-0'"):
        onboard(OpenRun(out), "Planted-0-0", everyone / LATE)
    for bad, rule in ((".x", "must not start with a dot"), ("a/b", "must not contain /")):
        with pytest.raises(ConfigError, match=rule):
            onboard(OpenRun(out), bad, everyone / LATE)
    with pytest.raises(ConfigError, match="newcomers join 'fedlease', the run's own, received 'fedit'"):
        onboard(OpenRun(out, "fedit"), LATE, everyone / LATE)
    with pytest.raises(ConfigError, match="epochs: must be at least 0, received -1"):
        onboard(OpenRun(out), LATE, everyone / LATE, epochs=-1)
    with pytest.raises(DataError, match="does not exist"):
        onboard(OpenRun(out), LATE, everyone / "absent")
    assert not (out / "onboarded").exists()


def test_training_that_diverges_leaves_nothing(out: Path, everyone: Path) -> None:
    run = OpenRun(out)
    run.settings = run.settings.model_copy(
        update={"train": run.settings.train.model_copy(update={"lr": 1e30, "clip_norm": None})}
    )
    with pytest.raises(RunFailedError, match=rf"client '{LATE}' was not onboarded: (warmup|onboard): "):
        onboard(run, LATE, everyone / LATE)
    assert not (out / "onboarded").exists()


def test_a_method_without_experts_is_joined_as_by_a_client_that_comes_late(everyone: Path, tmp_path: Path) -> None:
    shutil.copytree(everyone, tmp_path / "some", ignore=shutil.ignore_patterns(LATE))
    out = small_run(tmp_path / "r", method="fedex-lora", rounds=1, data__path=str(tmp_path / "some")).out
    before = hashes(out)
    found = onboard(OpenRun(out), LATE, everyone / LATE)
    assert found.placement is None and hashes(out) == before
    content = json.loads((found.folder / "onboarding.json").read_text())
    assert (content["expert"], content["distances"], content["epochs"]) == (None, [], 1)
    assert list(found.scores) == ["majority class", "untrained", "on arrival", "after 1 local epoch"]
    run = OpenRun(out)
    assert run.model(LATE).spec.mixer == "sum" and experts_of(run) == {}
    # What it has on arrival is what everyone has; its own rows come on top.
    others = run.model("planted-0-0").tensors
    frozen = [name for name in run.model(LATE).kept]
    assert frozen and all(torch.equal(run.model(LATE).tensors[name], others[name]) for name in frozen)
    Exporter(run).client(LATE, tmp_path / "x")
    scores = json.loads((tmp_path / "x" / "scores.json").read_text())["scores"]
    assert scores["routed"] == scores["folded"] == found.scores["after 1 local epoch"]
    assert LATE in (out / "report.html").read_text()


def test_on_the_corrected_scale_it_warms_up_on_halves_and_is_told_what_is_known(tmp_path: Path, everyone: Path) -> None:
    """Twelve rows are too few for halves, and nobody knows anyone: one expert for all. Twenty are divided."""
    out = small_run(tmp_path / "r", method="fedlease-plus", data__train_rows=20).out
    run, asked = OpenRun(out), list[tuple[str, int]]()
    rows = write_folder(
        load_federation(resolve(preset="smoke", overrides={**SMALL, **EIGHT, "data.train_rows": 20}).data, 0),
        tmp_path / "rows",
    )
    found = onboard(
        run, LATE, rows / LATE, epochs=0, on_batch=lambda phase, done, total, loss: asked.append((phase, total))
    )
    # Halves of ten rows, in batches of eight: two steps in one pass, of each.
    assert {*asked} == {("warmup", 4)} and len(asked) == 4
    known = run.saved.state.centroids
    assert known.num_experts == len(found.placement.similarities)
    entry = json.loads((out / "onboarded" / LATE / "onboarding.json").read_text())
    assert (entry["similarities"], entry["learnt"]) == ([*found.placement.similarities], found.placement.learnt)
