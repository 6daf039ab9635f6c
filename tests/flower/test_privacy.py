"""Differential privacy over a grid: the same as in one process where both have one owner, secret where not."""

import json
from pathlib import Path
from typing import Any

import pytest
from small import rounds_of, small_run, small_settings, tensors_of

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.nodes import comparable, over_memory

from fedlease.errors import ConfigError

PRIVATE: dict[str, Any] = {"privacy.epsilon": 8.0, "method": "fedit", "rounds": 1}


def test_a_simulation_is_the_run_in_one_process(tmp_path: Path) -> None:
    here = small_run(tmp_path / "here", **PRIVATE)
    there, _ = over_memory(small_settings(**PRIVATE), tmp_path / "there")
    assert tensors_of(tmp_path / "there") == tensors_of(tmp_path / "here")
    assert comparable(there["fedit"]) == comparable(here.summary)
    spent = [[r["epsilon"] for r in line["clients"].values()] for line in rounds_of(tmp_path / "there")]
    assert spent == [[r["epsilon"] for r in line["clients"].values()] for line in rounds_of(tmp_path / "here")]


def test_nodes_of_other_owners_draw_noise_of_their_own_and_remember_what_they_spent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither seed nor card tells of rows; the node's own log says what is spent."""
    runs = []
    for name in ("one", "two"):
        state = str(tmp_path / name / "state")
        over_memory(small_settings(**PRIVATE), tmp_path / name / "run", hand_over=False, **{"state-dir": state})
        runs.append(tmp_path / name / "run")
    assert tensors_of(runs[0]) != tensors_of(runs[1])
    assert "planted-0-0 has spent epsilon" in caplog.text
    cards = json.loads((runs[0] / "clients.json").read_text())
    plain = small_run(tmp_path / "plain", **{**PRIVATE, "rounds": 0, "warmup.epochs": 1}).out
    known = json.loads((plain / "clients.json").read_text())
    assert "fingerprint" in json.dumps(cards)
    assert not {json.dumps(card) for card in _prints(cards)} & {json.dumps(card) for card in _prints(known)}


def test_a_node_that_would_forget_what_it_spent_takes_no_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = small_settings(**PRIVATE, **{"flower.wait": 0.5})
    with pytest.raises(ConfigError):
        over_memory(settings, tmp_path / "run", hand_over=False)
    assert (
        "its node has no state-dir, without which it would forget what it has spent of privacy.epsilon" in caplog.text
    )


def _prints(cards: Any) -> list[str]:
    """All fingerprints anywhere in a document."""
    if isinstance(cards, dict):
        own = [value for key, value in cards.items() if key == "fingerprint"]
        return own + [found for value in cards.values() for found in _prints(value)]
    return [found for value in cards for found in _prints(value)] if isinstance(cards, list) else []
