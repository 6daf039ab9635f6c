"""One result, whatever drives it: a run over a grid equals the run in one process, bit for bit.

Every method, every kind of head and text generation are in ``test_own_model.py``, with what their nodes write.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from small import rounds_of, small_run, small_settings, tensors_of

from fedlease.core.types import ClientModel
from fedlease.runs.runner import resume
from fedlease.server.events import StepFinished

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from flower.nodes import comparable, over_memory

NEW = ["scaffold", "fedmomentum", "fedrot-lora", "ravan", "fedrora", "hilora", "slora"]
"""Gradients and slopes, an addition to the frozen weights, adapters that are turned, cores, a diagonal, tiers, and
sparse values."""


def test_clients_of_unequal_ranks(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "baselines": ["local"],
        "lora.r": {"default": 4, "planted-0-0": 2, "planted-1-0": 1},
        "fedlease.signal": "BA",
        "fedlease.average": "product",
        "fedlease.router": "client",
    }
    here = small_run(tmp_path / "here", **settings)
    there, _ = over_memory(small_settings(**settings), tmp_path / "there")
    for folder in (".", "baselines/local"):
        assert tensors_of(tmp_path / "there" / folder) == tensors_of(tmp_path / "here" / folder)
    assert comparable(there["fedlease"]) == comparable(here.summary)


def test_sampled_clients_and_the_scores_of_the_others(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"clients_per_round": 3, "baselines": [], "rounds": 3, "train.lr_schedule": "linear"}
    settings |= {"warmup.epochs": 2, "warmup.as_rounds": True}
    here = small_run(tmp_path / "here", **settings)
    there, grid = over_memory(small_settings(**settings), tmp_path / "there")
    assert tensors_of(tmp_path / "there") == tensors_of(tmp_path / "here")
    assert comparable(there["fedlease"]) == comparable(here.summary)
    scores = [[r["mean_score"] for r in rounds_of(tmp_path / place)] for place in ("here", "there")]
    assert scores[0] == scores[1]
    assert "evaluate.score" in {kind for kind, _ in grid.log}


def test_another_headline_and_balanced_labels(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"metric": "mcc", "train.class_weights": "balanced", "baselines": ["local"], "rounds": 1}
    here = small_run(tmp_path / "here", **settings)
    there, _ = over_memory(small_settings(**settings), tmp_path / "there")
    assert tensors_of(tmp_path / "there") == tensors_of(tmp_path / "here")
    assert comparable(there["fedlease"]) == comparable(here.summary)
    rows = [json.loads((tmp_path / place / "row_scores.json").read_text()) for place in ("here", "there")]
    assert rows[0] == rows[1]


def test_methods_that_ask_for_more_than_the_mean_of_a_and_b(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": NEW[0], "baselines": NEW[1:], "rounds": 2}
    settings |= {"data.train_rows": 8, "data.test_rows": 4}
    here = small_run(tmp_path / "here", **settings)
    there, _ = over_memory(small_settings(**settings), tmp_path / "there")
    for name in NEW:
        folder = "." if name == NEW[0] else f"baselines/{name}"
        assert tensors_of(tmp_path / "there" / folder) == tensors_of(tmp_path / "here" / folder), name
    assert comparable(there[NEW[0]]) == comparable(here.summary)


@pytest.mark.parametrize("joining", [False, True])
def test_halves_also_where_a_run_is_resumed_and_unsure_clients_choose(
    joining: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if joining:
        monkeypatch.setattr(ClientModel, "choose", lambda model, losses: 1)
    settings: dict[str, Any] = {"method": "fedlease-plus", "baselines": [], "data.train_rows": 20, "warmup.epochs": 2}
    here = small_run(tmp_path / "here", **settings)

    def stop(event: Any) -> None:
        if isinstance(event, StepFinished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "resumed", listeners=[stop], **settings)
    resume(tmp_path / "resumed")
    there, _ = over_memory(small_settings(**settings), tmp_path / "there")
    for place in ("there", "resumed"):
        assert tensors_of(tmp_path / place) == tensors_of(tmp_path / "here")
    assert comparable(there["fedlease-plus"]) == comparable(here.summary)
    # Two stand alone after the warm-up. They compare the others' experts in every round, or join at once.
    for place in ("there", "resumed", "here"):
        clients = [one for line in rounds_of(tmp_path / place) for one in line["clients"].values()]
        assert [one["choice"] for one in clients if "choice" in one] == ([1, 1] if joining else [0] * 4)
    # Who has joined leaves its own expert.
    assert here.summary["num_experts"] == (1 if joining else 3)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_heads(task: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"task": task, "baselines": [], "data.clients_per_task": 1, "rounds": 1}
    here = small_run(tmp_path / "here", **settings)
    there, _ = over_memory(small_settings(**settings), tmp_path / "there")
    assert tensors_of(tmp_path / "there") == tensors_of(tmp_path / "here")
    assert comparable(there["fedlease"]) == comparable(here.summary)
    clients = [json.loads((tmp_path / place / "clients.json").read_text()) for place in ("here", "there")]
    assert clients[0] == clients[1]
