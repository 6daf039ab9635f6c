"""A run that goes on from a finished one ends as one that had all the rounds at once, and leaves the old one alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli.shell import Shell, shell
from small import SMALL, FinishedRuns, own_rows, rounds_of, scores_of, small_run, tensors_of

import fedlease
from fedlease.errors import ConfigError, DataError, RunFolderError
from fedlease.reporting.run.page import write_report
from fedlease.reporting.run.reading import read_run
from fedlease.reporting.run.words import facts, score_words
from fedlease.runs.runner import resume
from fedlease.storage.environment import read_environment

__all__ = ["shell"]

METHODS = ("fedlease", "local")
CHANGES: dict[str, Any] = {"baselines": ["local"]}


def folder_of(out: Path, method: str) -> Path:
    return out if method == "fedlease" else out / "baselines" / method


def files_of(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def settled(record: dict[str, Any]) -> dict[str, Any]:
    """A line of ``rounds.jsonl`` without times."""
    clients = {
        client: {key: value for key, value in row.items() if key != "seconds"}
        for client, row in record["clients"].items()
    }
    return {**{key: value for key, value in record.items() if key != "seconds"}, "clients": clients}


@pytest.fixture(scope="module")
def old(finished: FinishedRuns) -> Path:
    return finished(**CHANGES).out


@pytest.fixture(scope="module")
def more(old: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("more") / "r"
    before = files_of(old)
    assert fedlease.run(continue_from=old, out=out, rounds="+2").out == out
    assert files_of(old) == before, "the old folder was written to"
    return out


def test_two_rounds_and_two_more_are_four(more: Path, finished: FinishedRuns) -> None:
    whole = finished(**CHANGES, rounds=4).out
    for method in METHODS:
        here, there = folder_of(more, method), folder_of(whole, method)
        assert tensors_of(here) == tensors_of(there)
        assert list(map(settled, rounds_of(here))) == list(map(settled, rounds_of(there)))
        summaries = [json.loads((folder / "summary.json").read_text()) for folder in (here, there)]
        assert scores_of(summaries[0]) == scores_of(summaries[1])
    assert json.loads((more / "allocation.json").read_text()) == json.loads((whole / "allocation.json").read_text())


OTHERS = ["ifca", "fedalt", "feddpa", "fedtreelora", "centralised"]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "others"), [("classification", OTHERS), ("generation", ["feddpa", "centralised"])])
def test_every_method_goes_on_to_the_same_bits(task: str, others: list[str], tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "method": "ffa-lora", "baselines": others, "task": task, "clients_per_round": 3, "generation.max_new_tokens": 3,
        "generation.score_rounds": False, "data.train_rows": 8, "data.test_rows": 2,
    }  # fmt: skip
    whole = small_run(tmp_path / "whole", **changes, rounds=2).out
    old = small_run(tmp_path / "old", **changes, rounds=1).out
    more = fedlease.run(continue_from=old, out=tmp_path / "more", rounds=2).out
    for method in others:
        assert tensors_of(more / "baselines" / method) == tensors_of(whole / "baselines" / method), method
    assert tensors_of(more) == tensors_of(whole)


def test_a_method_that_is_unsure_of_clients_goes_on(tmp_path: Path) -> None:
    # Its warm-ups depend on how many rounds follow, so that the bits are others; but the rounds are made.
    old = small_run(tmp_path / "old", method="fedlease-plus", baselines=[], data__train_rows=20).out
    result = fedlease.run(continue_from=old, out=tmp_path / "r", rounds="+2")
    assert [line["round"] for line in rounds_of(result.out)][-2:] == [3, 4]
    before, after = (json.loads((out / "allocation.json").read_text()) for out in (old, result.out))
    assert before == after


def test_provenance_names_the_run_and_no_path(more: Path, old: Path) -> None:
    (before,) = read_environment(more).continued
    assert (before.run, before.name, before.rounds) == (read_environment(old).run, old.name, 2)
    assert str(old.parent) not in (more / "environment.json").read_text()
    assert read_environment(more).run != before.run
    run = read_run(more)
    assert dict(facts(run))["Goes on from"] == f"{old.name} (run {before.run[:8]}), 2 rounds"
    assert f"Up to round 2 they are those of {old.name}, which this run goes on from." in score_words(run)
    assert "Goes on from" in write_report(more).read_text(encoding="utf-8")


def test_a_chain_names_every_run(more: Path, tmp_path: Path) -> None:
    last = fedlease.run(continue_from=more, out=tmp_path / "r", rounds=5, baselines=[]).out
    assert [run.rounds for run in read_environment(last).continued] == [2, 4]
    assert [line["round"] for line in rounds_of(last)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("step", [4, 5])
def test_a_run_that_goes_on_can_be_resumed(step: int, more: Path, old: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(event: Any) -> None:
        if getattr(event, "record", {}).get("step") == step and event.method == "fedlease":
            raise Killed

    out = tmp_path / "r"
    with pytest.raises(Killed):
        fedlease.run(continue_from=old, out=out, rounds="+2", listeners=[kill])
    resume(out)
    for method in METHODS:
        assert tensors_of(folder_of(out, method)) == tensors_of(folder_of(more, method))


def test_the_result_is_loaded_without_the_old_folder(old: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(old, tmp_path / "old"))
    result = fedlease.run(continue_from=copy, out=tmp_path / "r", rounds="+1", baselines=[])
    shutil.rmtree(copy)
    assert result.load(next(iter(result.summary["per_client"]))) is not None


def test_clients_are_grouped_again_by_a_setting(old: Path, tmp_path: Path) -> None:
    # Rounds 1 and 2 are old; 3 is new, after which the groups are those of what was uploaded in it.
    result = fedlease.run(
        {"fedlease.reallocate": 3, "baselines": []}, continue_from=old, out=tmp_path / "r", rounds="+2"
    )
    manifest = json.loads((result.out / "state" / "manifest.json").read_text())
    assert manifest["round"] == 5
    back = fedlease.run({"fedlease.reallocate": None}, continue_from=result.out, out=tmp_path / "s", rounds="+1")
    assert set(back.summary["assignment"]) == set(result.summary["assignment"])


def test_other_settings_may_change(old: Path, tmp_path: Path) -> None:
    changes = {"train.lr": 1e-4, "train.lr_schedule": "linear", "clients_per_round": 2, "baselines": ["local"]}
    result = fedlease.run(changes, continue_from=old, out=tmp_path / "r", rounds="+1")
    assert list(result.summaries) == ["fedlease", "local"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "rounds: must be above the 2 of {old}, received 2; +5 means five more"),
        ({"rounds": 1}, "rounds: must be above the 2 of {old}, received 1; +5 means five more"),
        ({"rounds": "+0"}, "rounds: must be above the 2 of {old}, received 2; +5 means five more"),
        ({"rounds": "+x"}, "rounds: must be a whole number, received '+x'"),
        ({"lora.r": 3}, "lora.r: must be 4 as in {old}, which the run continues, received 3"),
        ({"model": "minilm"}, "model: must be 'tiny-random' as in {old}, which the run continues, received "
         "'minilm'"),
        ({"method": "local", "baselines": []}, "method: must be 'fedlease' as in {old}, which the run continues, "
         "received 'local'"),
        ({"seed": 1}, "seed: must be 0 as in {old}, which the run continues, received 1"),
        ({"fedlease.routing": "own"}, "fedlease.routing: must be 'top-m' as in {old}, which the run continues, "
         "received 'own'"),
        ({"baselines": ["ifca"]}, "baselines: 'ifca' is not a baseline of {old}, so it cannot be continued"),
    ],
)  # fmt: skip
def test_what_cannot_be_gone_on_with_is_one_sentence(
    changes: dict[str, Any], message: str, old: Path, tmp_path: Path
) -> None:
    given = {"rounds": "+1", **changes} if changes and "rounds" not in changes else changes
    with pytest.raises(ConfigError) as caught:
        fedlease.run(given, continue_from=old, out=tmp_path / "r")
    assert caught.value.faults == (message.format(old=old),)
    assert not (tmp_path / "r").exists()


def test_an_unfinished_run_is_to_be_ended_first(finished: FinishedRuns, tmp_path: Path) -> None:
    old = finished.copy(tmp_path / "old", **CHANGES)
    (old / "summary.json").unlink()
    with pytest.raises(RunFolderError, match=r"fedlease has not finished; end it first with: fedlease resume"):
        fedlease.run(continue_from=old, out=tmp_path / "r", rounds="+1")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        fedlease.run(continue_from=tmp_path / "none", out=tmp_path / "r", rounds="+1")
    assert not (tmp_path / "r").exists()


def test_another_base_under_the_same_name_is_refused(finished: FinishedRuns, tmp_path: Path) -> None:
    old = finished.copy(tmp_path / "old", **CHANGES)
    path = old / "base" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(RunFolderError, match=r"model\.safetensors is damaged, or was changed"):
        fedlease.run(continue_from=old, out=tmp_path / "r", rounds="+1")


def test_other_rows_are_refused_unless_asked_for(tmp_path: Path) -> None:
    data, old = own_rows(tmp_path / "data"), tmp_path / "old"
    small_run(old, data__path=str(data), rounds=1)
    own_rows(data, clients=("zoe",))
    with (data / "one" / "train.jsonl").open("a") as file:
        file.write('\n{"text": "one more", "label": "yes"}')
    with pytest.raises(DataError, match=r"the rows are not those of .*; --new-rows .* continues"):
        fedlease.run(continue_from=old, out=tmp_path / "r", rounds="+2")
    assert not (tmp_path / "r").exists()
    result = fedlease.run(continue_from=old, out=tmp_path / "r", rounds="+2", new_rows=True)
    notes = read_environment(result.out).data_warnings
    assert "the rows differ from those of old, so scores before and after are of other rows" in notes
    assert "1 client was not in old: zoe" in notes
    # The new client warmed up in the first new round; its 9th row counts in the old client's mean.
    lines = rounds_of(result.out)
    assert lines[-2]["clients"]["zoe"]["phase"] == "warmup" and not lines[-1]["refused"]
    assert "zoe" in result.summary["per_client"]


def test_a_client_that_is_gone_or_has_other_labels_is_named(tmp_path: Path) -> None:
    data, old = own_rows(tmp_path / "data"), tmp_path / "old"
    small_run(old, data__path=str(data), rounds=1)
    shutil.rmtree(data / "two")
    for split in ("train", "test"):
        path = data / "one" / f"{split}.jsonl"
        path.write_text(path.read_text().replace('"yes"', '"maybe"'))
    with pytest.raises(DataError) as caught:
        fedlease.run(continue_from=old, out=tmp_path / "r", rounds="+2", new_rows=True)
    assert caught.value.faults == (
        f"client 'one': its labels must be those of {old}, no, yes, received maybe, no; its head has one output per "
        "label",
        f"client 'two' of {old} is not among the rows, and a run must continue with all of its clients",
    )


def test_the_command_goes_on(old: Path, more: Path, shell: Shell) -> None:
    done = shell("run", "--from", old, "--set", "rounds=+2", "--out", "r", "--quiet")
    assert done.code == 0, done.err
    for method in METHODS:
        assert tensors_of(folder_of(Path("r"), method)) == tensors_of(folder_of(more, method))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "smoke", "--from", "OLD"], "--from: takes the settings of its run, and --set changes them; "
         "leave out --preset smoke"),
        (["--engine", "flower", "--from", "OLD"], "--from: a run can only be continued in this process; leave out "
         "--engine flower"),
        (["--set", "rounds=+5"], "rounds: +5 adds to a finished run, which must be named by --from DIR"),
    ],
)  # fmt: skip
def test_words_that_do_not_go_together_are_one_sentence(
    words: list[str], message: str, old: Path, shell: Shell
) -> None:
    done = shell("run", *[str(old) if word == "OLD" else word for word in words])
    assert (done.code, done.err) == (2, f"fedlease: {message}\n")


def test_a_config_is_no_change(old: Path) -> None:
    with pytest.raises(ConfigError, match=r"config: must be changes to the settings of continue_from, .*'smoke'"):
        fedlease.run("smoke", continue_from=old, rounds="+1")


def test_rows_in_memory_are_given_again(tmp_path: Path) -> None:
    rows = [{"text": f"it says {'yes' if i % 2 else 'no'} {i}", "label": ["no", "yes"][i % 2]} for i in range(12)]
    data = {client: (rows[:8], rows[8:]) for client in ("one", "two", "three")}
    old = fedlease.run({**SMALL, "preset": "smoke", "baselines": []}, data=data, out=tmp_path / "old").out
    result = fedlease.run(continue_from=old, data=data, out=tmp_path / "r", rounds="+1")
    assert [line["round"] for line in rounds_of(result.out)] == [0, 1, 2, 3]
    with pytest.raises(DataError, match="memory"):
        fedlease.run(continue_from=old, out=tmp_path / "s", rounds="+1")
