"""Early stopping: when a method ends, which round it keeps, and that everything that reads the run has that round."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import FinishedRuns, rounds_of, scores_of, small_run, small_settings, tensors_of

import fedlease
from fedlease.client.store import Private
from fedlease.client.worker import ClientWorker
from fedlease.core.types import AdapterSpec, ClientModel
from fedlease.errors import ConfigError
from fedlease.reporting.means import stopped_words
from fedlease.reporting.run.reading import read_run
from fedlease.reporting.run.words import facts
from fedlease.runs.check import check_settings
from fedlease.runs.runner import resume
from fedlease.server.stopping import EarlyStopping
from fedlease.storage.saved import Best
from fedlease.storage.summary import Summary

CHANGES: dict[str, Any] = {"baselines": ["fedit", "local"], "rounds": 6, "data__valid_fraction": 0.25}
PATIENT: dict[str, Any] = {**CHANGES, "early_stopping__patience": 2}
METHODS = ("fedlease", "fedit", "local")
# After the warm-up and rounds 1, 2, ...: round 2 is best, 3 and 4 are not better by min_delta, so 4 is the last.
VALUES = [0.5, 0.625, 0.75, 0.75, 0.7578125, 0.875, 0.875]


def folder_of(out: Path, method: str) -> Path:
    return out if method == "fedlease" else out / "baselines" / method


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation values that depend on the round alone."""
    monkeypatch.setattr(ClientWorker, "validate", lambda self, model, metric: 0.5)
    real = EarlyStopping.compare

    def compare(self: EarlyStopping, method: Any, step: Any, after: Any, *rest: Any) -> Best | None:
        monkeypatch.setattr(ClientWorker, "validate", lambda *_: VALUES[after.round - 1])
        return real(self, method, step, after, *rest)

    monkeypatch.setattr(EarlyStopping, "compare", compare)


@pytest.fixture(scope="module")
def shorter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with two rounds and nothing that stops it."""
    return small_run(tmp_path_factory.mktemp("shorter") / "r", **{**CHANGES, "rounds": 2, "baselines": []}).out


@pytest.mark.usefixtures("planned")
def test_the_best_round_is_kept_everywhere(shorter: Path, tmp_path: Path) -> None:
    result = small_run(tmp_path / "r", **{**PATIENT, "baselines": [], "early_stopping__min_delta": 0.01})
    assert [line["round"] for line in rounds_of(result.out)] == [0, 1, 2, 3, 4]
    assert [line["valid"]["mean"] for line in rounds_of(result.out)] == VALUES[:5]
    assert [line["valid"]["best_round"] for line in rounds_of(result.out)] == [0, 1, 2, 2, 2]
    # State, heads and final scores are those of a run that had two rounds.
    assert tensors_of(result.out) == tensors_of(shorter)
    summary, other = (scores_of(json.loads((out / "summary.json").read_text())) for out in (result.out, shorter))
    stopped = summary.pop("early_stopping")
    assert stopped == {"metric": "score", "value": 0.75, "best_round": 2, "rounds": 4, "planned": 6}
    spent = {"bytes_up", "bytes_down"}  # those of the rounds that were thrown away, too
    assert {k: v for k, v in summary.items() if k not in spent} == {k: v for k, v in other.items() if k not in spent}
    client = next(iter(summary["per_client"]))
    mine, theirs = (fedlease.load(out, client).state_dict() for out in (result.out, shorter))
    assert all(tensor.equal(theirs[name]) for name, tensor in mine.items())
    words = "fedlease stopped after round 4 of 6 and kept round 2, whose score on validation rows is 75.0 %"
    assert stopped_words(Summary.model_validate(result.summary)) == words
    run = read_run(result.out)
    assert dict(facts(run))["Early stopping"] == words
    assert run.main.points[-1].scores == run.main.averaged and run.main.points[-1].passes == 3


@pytest.mark.usefixtures("planned")
def test_more_rounds_go_on_from_the_round_that_was_kept(tmp_path: Path) -> None:
    settings = {**PATIENT, "baselines": []}
    old = small_run(tmp_path / "old", **settings, early_stopping__min_delta=0.01).out
    plain = fedlease.run({"early_stopping.patience": None}, continue_from=old, out=tmp_path / "r", rounds="+1").out
    whole = small_run(tmp_path / "whole", **{**CHANGES, "rounds": 3, "baselines": []}).out
    assert tensors_of(plain) == tensors_of(whole)
    assert [line["round"] for line in rounds_of(plain)] == [0, 1, 2, 3]
    # Round 3 is worth what round 2 is worth, so round 2 stays.
    again = fedlease.run(continue_from=old, out=tmp_path / "again", rounds="+1")
    assert tensors_of(again.out) == tensors_of(old)
    assert again.summary["early_stopping"]["best_round"] == 2


@pytest.mark.parametrize("metric", ["score", "loss"])
def test_every_method_is_stopped_by_its_own_rows(metric: str, tmp_path: Path) -> None:
    result = small_run(tmp_path / "r", **{**PATIENT, "early_stopping__patience": 1, "early_stopping__metric": metric})
    for method in METHODS:
        lines, summary = rounds_of(folder_of(result.out, method)), result.summaries[method]
        values = [line["valid"]["mean"] * (-1 if metric == "loss" else 1) for line in lines]
        # Each round but the last is better than all before; the last is not, or all rounds were made.
        assert values[:-1] == sorted(set(values[:-1]))
        made = summary["early_stopping"]
        assert made["rounds"] == lines[-1]["round"] == made["planned"] or values[-1] <= values[-2]
        assert made["best_round"] == lines[max(range(len(values)), key=values.__getitem__)]["round"]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_killed_run_is_resumed_to_the_same_bits(step: int, finished: FinishedRuns, tmp_path: Path) -> None:
    changes = {**PATIENT, "baselines": ["local"], "rounds": 3, "early_stopping__metric": "loss"}

    class Killed(Exception):
        pass

    def kill(event: Any) -> None:
        if getattr(event, "record", {}).get("step") == step and event.method == "local":
            raise Killed

    whole = finished(**changes)
    with pytest.raises(Killed):
        small_run(tmp_path / "r", listeners=[kill], **changes)
    resume(tmp_path / "r")
    for method in ("fedlease", "local"):
        here, there = folder_of(tmp_path / "r", method), folder_of(whole.out, method)
        assert tensors_of(here) == tensors_of(there)
        mine, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (here, there))
        assert scores_of(mine) == scores_of(theirs)


def test_a_result_that_was_lost_is_made_of_the_round_that_was_kept(tmp_path: Path) -> None:
    result = small_run(tmp_path / "r", **{**PATIENT, "baselines": [], "rounds": 3, "early_stopping__patience": 1})
    (result.out / "summary.json").unlink()
    (again,) = resume(result.out).values()
    assert scores_of(again.content) == scores_of(result.summary)


def test_patience_counts_rounds_that_are_not_better_by_min_delta() -> None:
    stopping, best = EarlyStopping(2, 0.01), Best(1, 0.5, None, {})
    assert [stopping.ends(Best(1, 0.5, None, {}, waited)) for waited in (0, 1, 2)] == [False, False, True]
    assert not stopping.ends(None) and not EarlyStopping().ends(Best(1, 0.5, None, {}, 9))
    assert best.waited == 0


def test_rows_to_compare_on_are_needed() -> None:
    rule = r"early_stopping\.patience: compares rounds on validation rows, and no client has any; bring val"
    with pytest.raises(ConfigError, match=rule):
        check_settings(small_settings(early_stopping__patience=2))
    with pytest.raises(ConfigError, match=r"early_stopping\.patience: must be at least 1, received 0"):
        small_settings(early_stopping__patience=0)
    with pytest.raises(ConfigError, match=r"early_stopping\.min_delta: must be at least 0, received -1"):
        small_settings(early_stopping__min_delta=-1)
    with pytest.raises(ConfigError, match=r"early_stopping\.metric: must be one of score, loss, received 'f1'"):
        small_settings(early_stopping__metric="f1")


@pytest.mark.usefixtures("planned")
def test_over_flower_the_round_that_is_kept_is_the_same(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
    from flower.nodes import Stopped, comparable, grid_of, stop_after

    from fedlease.flower.strategy import FedLeaseStrategy

    # What is private (heads of fedlease, all of local) comes back on the nodes.
    changes = {**PATIENT, "baselines": ["local"], "early_stopping__min_delta": 0.01, "clients_per_round": 2}
    changes |= {"data__clients_per_task": 1}
    here = small_run(tmp_path / "here", **changes)
    settings, out = small_settings(**changes), tmp_path / "there"
    grid = grid_of(settings, one_machine=True, **{"state-dir": str(tmp_path / "state")})
    with pytest.raises(Stopped):
        # Round 3 is made, and is not better: the server is killed before it asks for another.
        FedLeaseStrategy(settings, out, [stop_after(3)], hand_over=True).start(grid)
    strategy = FedLeaseStrategy(settings, out, hand_over=True)
    strategy.start(grid)
    for method in ("fedlease", "local"):
        assert comparable(strategy.summaries[method]) == comparable(here.summaries[method])
        assert strategy.summaries[method]["early_stopping"]["best_round"] == 2
        assert tensors_of(folder_of(out, method)) == tensors_of(folder_of(here.out, method))
    lines, others = rounds_of(out), rounds_of(here.out)
    assert [line.get("valid") for line in lines] == [line.get("valid") for line in others]


def test_a_client_that_does_not_answer_is_not_compared() -> None:
    stopping, best = EarlyStopping(1), Best(1, 0.5, None, {}, clients={"a": 0.25, "b": 0.75})
    # Only b is known of both: 0.8 is more than its 0.75, although the mean over both was lower.
    assert stopping._gain({"b": 0.8, "c": 0.1}, best.clients) == pytest.approx(0.05)
    assert EarlyStopping(1, metric="loss")._gain({"b": 0.8}, best.clients) == pytest.approx(-0.05)
    assert stopping._gain({"c": 0.9}, best.clients) == 0


def test_private_tensors_of_the_kept_step_come_back() -> None:
    spec, head = AdapterSpec(2, 4.0, 0.0, ("q",)), "head/classifier.weight"
    private, model = Private(), ClientModel(spec, {})
    for step in (1, 2, 3):
        private = private.trained(step, spec, {head: torch.tensor([float(step)])})
        # Step 1 is the best so far; the last one may not be recorded yet.
        private = private.accepted(step, model, best=1, undo=True)
    assert {key: float(slots["head"][head]) for key, slots in private.kept.items()} == {"1": 1.0, "2": 2.0}
    assert [float(private.accepted(step, model, best=1).slots["head"][head]) for step in (1, 2, 3)] == [1.0, 2.0, 3.0]
    # Once step 3 is known to be recorded, what is not the best goes.
    assert [*private.accepted(3, model, best=1).kept] == ["1"] and not private.accepted(3, model, best=3).kept
    assert float(private.accepted(9, model, best=1).slots["head"][head]) == 3.0
