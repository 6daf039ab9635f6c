"""Some of the recorded runs, as they were; ``golden.py check`` runs all of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from reference import golden
from reference.golden import SEEDS, VARIANTS, environment, recorded, results_of, run_variant
from small import EVERY, FinishedRuns, small_settings

from fedlease.config.settings import resolve

# Both tasks, sampling, shared heads and the variants that keep a state.
SOME = ("sampled-shared", "gen-loss", "reallocate")


def test_every_variant_is_recorded() -> None:
    assert set(recorded()["runs"]) == {f"{name}/{seed}" for name in VARIANTS for seed in SEEDS}


@pytest.fixture
def runs() -> dict[str, Any]:
    """The recorded runs, where this machine can make the same bits."""
    made_on = recorded()["environment"]
    if made_on != environment():
        pytest.skip(f"recorded with {made_on}, and this is {environment()}: bits depend on both")
    found: dict[str, Any] = recorded()["runs"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_results_are_the_recorded_ones_to_the_bit(name: str, runs: dict[str, Any]) -> None:
    assert run_variant(name, seed=1) == runs[f"{name}/1"]


@pytest.mark.slow
def test_every_methods_results_are_the_recorded_ones_to_the_bit(finished: FinishedRuns, runs: dict[str, Any]) -> None:
    """By the run that other tests share."""
    changes = {**golden.SMALL, **VARIANTS["every-method"], "seed": 0}
    assert resolve(preset=changes.pop("preset"), overrides=changes) == small_settings(**EVERY)
    found, expected = results_of(finished(**EVERY), 1), runs["every-method/0"]
    assert {method: found[method] for method in expected} == expected


def test_the_script_tells_what_becomes_different_and_refuses_other_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "golden.json"
    runs: dict[str, Any] = {f"own/{seed}": {"fedlease": "as before"} for seed in SEEDS}
    file.write_text(json.dumps({"environment": environment(), "runs": runs}))
    monkeypatch.setattr(golden, "FILE", file)
    monkeypatch.setattr(golden, "run_variant", lambda name, seed: {"fedlease": "now" if seed else "as before"})
    for words in ((), ("chek",), ("record", "nobody")):
        with pytest.raises(SystemExit, match=r"golden\.py: no (mode ''|mode 'chek'|variant 'nobody')"):
            golden.main(*words)
    assert golden.main("check", "own") == 2 and "own/2 fedlease: as before became now" in capsys.readouterr().out
    assert golden.main("record", "own") == 0 and "2 differences" in capsys.readouterr().out
    assert golden.main("check", "own") == 0 and "0 differences" in capsys.readouterr().out
